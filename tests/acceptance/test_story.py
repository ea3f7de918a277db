"""One job from its creation to its end, as a worker and two people who watch it see it."""

import json
import subprocess

from support import BUF, ServerCase, api, messages, patience

WATCH = "/jobtrack.v1.JobService/WatchJob"


class Watcher:
    """A person with buf and the server's address."""

    def __init__(self, address, **request):
        command = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
        command += ["--data", json.dumps(request), f"http://{address}{WATCH}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.stream = messages(self.process.stdout)
        self.events = []

    def next(self):
        """Waits for the next event."""
        with patience(self.process):
            self.events.append(next(self.stream))
        return self.events[-1]

    def rest(self):
        """Reads to the end of the stream and returns buf's exit code."""
        with patience(self.process):
            self.events += self.stream
            return self.process.wait()

    def close(self):
        self.process.kill()
        self.process.communicate()


def revisions(events):
    return [int(event["job"]["revision"]) for event in events if "job" in event]


class Story(ServerCase):
    def watch(self, **request):
        watcher = Watcher(self.server.address, **request)
        self.addCleanup(watcher.close)
        return watcher

    def test_story(self):
        print()
        job_id = self.create(kind="video.render").id
        print(f"  created {job_id}")

        first = self.watch(jobId=job_id)
        self.assertEqual(first.next()["event"], "EVENT_SNAPSHOT")
        print("  first watcher: sees the job, PENDING")

        for n in range(1, 26):
            self.report(job_id, completed=n, total=50, stage="rendering")
        token = first.next()["resumeToken"]
        resumed_at = revisions(first.events)[-1]
        print(f"  worker: 25 of 50; first watcher: has read revision {resumed_at}")

        second = self.watch(jobId=job_id, resumeToken=token)
        self.assertEqual(second.next()["event"], "EVENT_BOOKMARK")
        print(f"  second watcher: resumes behind revision {resumed_at} with the first one's token")

        for n in range(26, 51):
            self.report(job_id, completed=n, total=50, stage="rendering")
        done = self.jobs.CompleteJob(api.CompleteJobRequest(job_id=job_id)).job
        print(f"  worker: 50 of 50, completed at revision {done.revision}")

        for name, watcher in (("first", first), ("second", second)):
            self.assertEqual(watcher.rest(), 0)
            seen = revisions(watcher.events)
            self.assertEqual(seen, sorted(set(seen)), "revisions must rise")
            self.assertEqual(seen[-1], done.revision)
            self.assertEqual(watcher.events[-1]["job"]["state"], "STATE_SUCCEEDED")
            self.assertFalse(any(event.get("reset") for event in watcher.events))
            print(f"  {name} watcher: {len(seen)} versions, {seen[0]} to {seen[-1]}, SUCCEEDED, stream ended OK")
        self.assertGreater(revisions(second.events)[0], resumed_at)
