//! The calls that every measured server receives: equal in size and kind.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};

use clap::ValueEnum;
use jobtrack::proto::v1::{CreateJobRequest, GetJobRequest, Progress, UpdateProgressRequest, WatchJobRequest};
use uuid::Uuid;

/// The measured calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    Get,
    Update,
    Create,
}

impl Operation {
    pub const ALL: [Self; 3] = [Self::Get, Self::Update, Self::Create];

    /// Returns the name of the call in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Update => "update",
            Self::Create => "create",
        }
    }
}

/// Jobs of one load, with ids that no other load uses; some 300 bytes each in a response.
pub struct Jobs {
    prefix: String,
    /// Number of jobs that are read and updated.
    pub count: u32,
    /// Number of jobs, including those that the load has created.
    created: AtomicU32,
    /// Rises with every report unless the job is contended, so that no report is ignored as outdated.
    completed: AtomicI64,
    /// Several callers report on one job. All their reports have the same progress: they may arrive in any order, and
    /// one with less progress would be ignored.
    is_contended: bool,
}

impl Jobs {
    /// Returns ids for `count` jobs, none of which exists yet.
    pub fn new(count: u32) -> Self {
        let prefix = Uuid::new_v4().simple().to_string()[..12].to_owned();
        Self { prefix, count, created: AtomicU32::new(count), completed: AtomicI64::new(1), is_contended: false }
    }

    /// Returns the id of one job that several callers report on.
    pub fn contended() -> Self {
        Self { is_contended: true, ..Self::new(1) }
    }

    /// Returns the first of these jobs, with continued progress.
    pub fn first(&self, count: u32) -> Self {
        let completed = self.completed.load(Relaxed);
        Self {
            prefix: self.prefix.clone(),
            count,
            created: AtomicU32::new(self.count),
            completed: completed.into(),
            is_contended: self.is_contended,
        }
    }

    /// Returns the id of a job.
    pub fn id(&self, job: u32) -> String {
        format!("{}-{job:09}", self.prefix)
    }

    /// Returns a job that does not exist yet.
    pub fn fresh(&self) -> u32 {
        self.created.fetch_add(1, Relaxed)
    }

    /// Returns the next value of the rising progress; of a contended job always the same.
    pub fn next_completed(&self) -> i64 {
        if self.is_contended { self.completed.load(Relaxed) } else { self.completed.fetch_add(1, Relaxed) }
    }

    pub fn create_request(&self, job: u32) -> CreateJobRequest {
        CreateJobRequest {
            job_id: self.id(job),
            kind: "video.render".to_owned(),
            owner: format!("owner-{}", job % 10),
            labels: [("team".to_owned(), "media".to_owned()), ("region".to_owned(), "eu-west-1".to_owned())].into(),
            ..CreateJobRequest::default()
        }
    }

    pub fn get_request(&self, job: u32) -> GetJobRequest {
        GetJobRequest { job_id: self.id(job), ..GetJobRequest::default() }
    }

    /// Returns the request of a watch that receives nothing but the job during a measurement.
    pub fn watch_request(&self, job: u32) -> WatchJobRequest {
        let bookmark_interval = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
        WatchJobRequest { job_id: self.id(job), bookmark_interval, ..WatchJobRequest::default() }
    }

    pub fn update_request(&self, job: u32) -> UpdateProgressRequest {
        UpdateProgressRequest {
            job_id: self.id(job),
            progress: Some(progress(self.next_completed())),
            worker: "worker-17.render.example".to_owned(),
            ..UpdateProgressRequest::default()
        }
    }
}

/// Returns a report of typical size.
pub fn progress(completed: i64) -> Progress {
    Progress {
        completed: Some(completed),
        total: Some(1_000_000_000),
        unit: Some("frames".to_owned()),
        stage: Some("rendering".to_owned()),
        stage_index: Some(2),
        stage_count: Some(4),
        message: Some("rendering the second of four passes at full resolution".to_owned()),
        ..Progress::default()
    }
}
