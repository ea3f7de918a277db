//! Plots with logarithmic axes, as SVG.

use std::fmt::Write;

/// Size of the picture, and positions of the axes, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 340.0;

/// Colours of the lines. The marks distinguish the lines without colour.
const COLOURS: [&str; 6] = ["#1b6ac9", "#c9541b", "#2a8a4a", "#7a3fb0", "#8a6d1b", "#555555"];

/// Lines over logarithmic axes.
pub struct Plot {
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    pub lines: Vec<Line>,
}

/// Points in the order of x; all values are positive.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// An axis from one power of ten to another.
struct Axis {
    first: f64,
    last: f64,
    /// Positions of both ends in the picture.
    from: f64,
    to: f64,
}

impl Axis {
    /// Returns an axis with room for all values.
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let smallest = values.clone().fold(f64::MAX, f64::min);
        let largest = values.fold(f64::MIN, f64::max);
        let first = smallest.log10().floor();
        let last = largest.log10().ceil().max(first + 1.0);
        Self { first, last, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.first) / (self.last - self.first) * (self.to - self.from)
    }

    /// Returns the powers of ten on the axis.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (mut exponent, last) = (self.first, self.last);
        std::iter::from_fn(move || {
            let tick = (exponent <= last).then(|| 10_f64.powf(exponent));
            exponent += 1.0;
            tick
        })
    }
}

impl Plot {
    /// Returns the picture.
    pub fn render(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let across = Axis::over(points().map(|point| point.0), LEFT, RIGHT);
        let up = Axis::over(points().map(|point| point.1), BOTTOM, TOP);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fcfcfc\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            escaped(&self.title)
        );
        self.draw_axes(&mut svg, &across, &up);
        for (number, line) in self.lines.iter().enumerate() {
            line.draw(&mut svg, COLOURS[number % COLOURS.len()], number, &across, &up);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_axes(&self, svg: &mut String, across: &Axis, up: &Axis) {
        for tick in across.ticks() {
            let (x, label) = (across.place(tick), short(tick));
            _ = write!(svg, "<path d=\"M{x:.1} {TOP}V{BOTTOM}\" stroke=\"#dddddd\"/>");
            _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", BOTTOM + 18.0);
        }
        for tick in up.ticks() {
            let (y, label) = (up.place(tick), short(tick));
            _ = write!(svg, "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#dddddd\"/>");
            let (x, y) = (LEFT - 8.0, y + 4.0);
            _ = writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>");
        }
        let (x, y) = (f64::midpoint(LEFT, RIGHT), BOTTOM + 42.0);
        _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escaped(self.x));
        let y = f64::midpoint(TOP, BOTTOM);
        let turned = format!("transform=\"translate(20 {y}) rotate(-90)\" text-anchor=\"middle\"");
        _ = writeln!(svg, "<text {turned}>{}</text>", escaped(self.y));
    }
}

impl Line {
    fn draw(&self, svg: &mut String, colour: &str, number: usize, across: &Axis, up: &Axis) {
        let places: Vec<_> = self.points.iter().map(|&(x, y)| (across.place(x), up.place(y))).collect();
        let path: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        _ = writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        for &(x, y) in &places {
            draw_mark(svg, colour, number, x, y);
        }
        #[allow(clippy::cast_precision_loss, reason = "there are few lines")]
        let x = LEFT + 4.0 + 135.0 * number as f64;
        draw_mark(svg, colour, number, x, 42.0);
        _ = writeln!(svg, "<text x=\"{:.1}\" y=\"46\">{}</text>", x + 9.0, escaped(&self.name));
    }
}

/// Draws a circle, a square or a diamond.
fn draw_mark(svg: &mut String, colour: &str, number: usize, x: f64, y: f64) {
    let turn = if number % 3 == 2 { format!(" transform=\"rotate(45 {x:.1} {y:.1})\"") } else { String::new() };
    _ = if number.is_multiple_of(3) {
        writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>")
    } else {
        let (x, y) = (x - 3.5, y - 3.5);
        writeln!(svg, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"7\" height=\"7\" fill=\"{colour}\"{turn}/>")
    };
}

/// Formats a power of ten in few characters.
fn short(tick: f64) -> String {
    match tick {
        _ if tick >= 1e6 => format!("{:.0}M", tick / 1e6),
        _ if tick >= 1e3 => format!("{:.0}k", tick / 1e3),
        _ if tick >= 1.0 => format!("{tick:.0}"),
        _ => format!("{tick:.3}").trim_end_matches('0').to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
