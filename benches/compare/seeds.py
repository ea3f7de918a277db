"""A home-made status service: a job is a JSON string in Redis, which is changed by get, modify, setex."""

import json
import os
import socket
import time

import redis.asyncio as redis
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

KEPT_FOR = 7 * 24 * 3600

app = FastAPI()
store = redis.from_url(os.environ["REDIS_URL"], decode_responses=True)


class NewJob(BaseModel):
    id: str
    kind: str
    owner: str = ""
    labels: dict[str, str] = {}


class Report(BaseModel):
    worker: str
    completed: int
    total: int
    unit: str | None = None
    stage: str | None = None
    stage_index: int | None = None
    stage_count: int | None = None
    message: str | None = None


@app.post("/jobs")
async def create(new: NewJob):
    now = time.time()
    job = new.model_dump() | {"state": "PENDING", "create_time": now, "update_time": now, "progress": None}
    await store.setex(f"job:{new.id}", KEPT_FOR, json.dumps(job))
    return job


@app.get("/jobs/{job_id}")
async def get(job_id: str):
    doc = await store.get(f"job:{job_id}")
    if doc is None:
        raise HTTPException(404)
    return json.loads(doc)


@app.post("/jobs/{job_id}/progress")
async def update(job_id: str, report: Report):
    doc = await store.get(f"job:{job_id}")
    if doc is None:
        raise HTTPException(404)
    job = json.loads(doc)
    job["progress"] = report.model_dump() | {"percent": 100 * report.completed / report.total}
    job |= {"state": "RUNNING", "worker": report.worker, "update_time": time.time()}
    await store.setex(f"job:{job_id}", KEPT_FOR, json.dumps(job))
    return job


if __name__ == "__main__":
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    print(f"seeds listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
