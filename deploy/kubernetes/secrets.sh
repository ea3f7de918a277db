#!/bin/sh
# Prints the Secrets that deployment.yaml and redis.yaml mount, with a new password for Redis and the digest of a new
# token for jobtrack. Prints the token to standard error:
#   deploy/kubernetes/secrets.sh | kubectl apply -f -
# With a Redis of your own give its address: REDIS_URL=rediss://USER:PASSWORD@HOST:6379 deploy/kubernetes/secrets.sh
set -eu

password=$(openssl rand -hex 32)
token=$(openssl rand -hex 32)
digest=$(printf %s "$token" | openssl dgst -sha256 -r | cut -d ' ' -f 1)
rights='~job:* ~jobs:* ~jobtrack:epoch &jobs:* +@read +@write +@pubsub +@scripting +@connection -@dangerous +time +info +role +cluster|slots +cluster|myid'

cat <<YAML
apiVersion: v1
kind: Secret
metadata:
  name: jobtrack-redis
  namespace: jobtrack
stringData:
  url: ${REDIS_URL:-redis://jobtrack:$password@redis:6379}
---
apiVersion: v1
kind: Secret
metadata:
  name: redis-users
  namespace: jobtrack
stringData:
  # Without a password only PING is allowed, for the readiness probe.
  users.acl: |
    user default on nopass resetkeys resetchannels -@all +ping
    user jobtrack on >$password $rights
---
apiVersion: v1
kind: Secret
metadata:
  name: jobtrack-identities
  namespace: jobtrack
stringData:
  identities.json: |
    {"identities": [{"name": "admin", "sha256": "$digest", "role": "admin", "owners": "*"}]}
YAML
echo "token of the identity admin: $token" >&2
