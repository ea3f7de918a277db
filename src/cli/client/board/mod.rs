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

/// Least time between two frames. People read no faster, and a thousand jobs change a thousand times a second.
pub const FRAME_INTERVAL: Duration = Duration::from_millis(250);

/// Maximum time between two frames: the clocks of the jobs go on.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
