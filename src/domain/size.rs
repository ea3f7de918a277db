//! The memory that a version of a job uses.

use std::mem::size_of;

use super::{Attempt, Cancellation, Document, Failure, Job, Labels, Outcome, Progress};

/// Size of the two reference counts of an `Arc`, in bytes.
const COUNTS: usize = 2 * size_of::<usize>();

impl Job {
    /// Returns the size of this version in bytes, including everything that it refers to. Data that is shared with
    /// other versions counts in each of them. An estimate: allocators round up.
    pub fn size(&self) -> usize {
        let texts = [&self.kind, &self.owner, &self.worker].map(String::capacity);
        COUNTS
            + size_of::<Self>()
            + COUNTS
            + self.id.as_str().len()
            + texts.iter().sum::<usize>()
            + text(self.request_id.as_ref())
            + self.title.len()
            + labels(&self.labels)
            + document(self.metadata.as_ref())
            + self.attempts.iter().map(attempt).sum::<usize>()
            + progress(&self.progress)
            + self.cancel.as_deref().map_or(0, cancellation)
            + self.outcome.as_ref().map_or(0, outcome)
    }

    /// Returns the part of the size that is documents, which a basic view does not contain.
    pub fn document_size(&self) -> usize {
        let of_outcome = match &self.outcome {
            Some(Outcome::Result(result)) => document(Some(result)),
            Some(Outcome::Failure(failure)) => document(failure.details.as_ref()),
            None => 0,
        };
        document(self.metadata.as_ref()) + document(self.progress.details.as_ref()) + of_outcome
    }
}

fn text(text: Option<&String>) -> usize {
    text.map_or(0, String::capacity)
}

fn document(document: Option<&Document>) -> usize {
    document.map_or(0, |document| COUNTS + document.encoded().len())
}

fn labels(labels: &Labels) -> usize {
    // All empty label sets share one allocation.
    if labels.is_empty() { 0 } else { COUNTS + labels.size() }
}

fn attempt(attempt: &Attempt) -> usize {
    size_of::<Attempt>() + attempt.worker.capacity() + attempt.failure.as_ref().map_or(0, failure)
}

fn progress(progress: &Progress) -> usize {
    let texts = [&progress.unit, &progress.stage, &progress.message];
    texts.into_iter().map(|part| text(part.as_ref())).sum::<usize>() + document(progress.details.as_ref())
}

fn cancellation(cancel: &Cancellation) -> usize {
    size_of::<Cancellation>() + cancel.reason.capacity() + cancel.requester.capacity()
}

fn outcome(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Result(result) => document(Some(result)),
        Outcome::Failure(from) => size_of::<Failure>() + failure(from),
    }
}

fn failure(failure: &Failure) -> usize {
    failure.reason.capacity() + failure.message.capacity() + document(failure.details.as_ref())
}
