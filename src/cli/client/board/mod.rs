//! Live views of jobs on a terminal.

mod frame;
mod rate;
mod screen;

pub use self::{
    frame::{Frame, Size},
    rate::Rates,
    screen::{Lines, Screen},
};

use std::time::Duration;

/// Minimum time between two frames. People do not read faster, and many jobs change far more often.
pub const FRAME_INTERVAL: Duration = Duration::from_millis(250);

/// Maximum time between two frames: the elapsed times of jobs advance even without events.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
