//! The ratios to plain routing as bars, one picture for each place and number of services.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    figures::Row,
    metric::{Metric, Place, Side},
};

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 360;
/// A longer bar is cut off; its number is not.
const RATIO_MAX: f64 = 2.2;
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes the chart to `file`, an SVG.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn draw(rows: &[Row], file: &Path) -> Result<()> {
    let panels: BTreeSet<_> = rows.iter().map(|row| (row.services, row.r#where)).collect();
    let count = panels.len().max(1);
    let root = SVGBackend::new(file, (WIDTH, HEIGHT * count as u32)).into_drawing_area();
    let drawn = root.fill(&WHITE).map_err(|error| anyhow!("{error}")).and_then(|()| {
        for (area, panel) in root.split_evenly((count, 1)).iter().zip(&panels) {
            draw_panel(area, rows, *panel)?;
        }
        root.present().map_err(|error| anyhow!("{error}"))
    });
    drawn.map_err(|error| error.context(format!("cannot write {}", file.display())))
}

fn draw_panel(area: &Area<'_>, rows: &[Row], (services, place): (u32, Place)) -> Result<()> {
    let rows: Vec<_> =
        rows.iter().filter(|row| (row.services, row.r#where) == (services, place)).collect();
    let metrics: Vec<_> =
        rows.iter().map(|row| row.metric).collect::<BTreeSet<Metric>>().into_iter().collect();
    let sides: Vec<_> = rows
        .iter()
        .map(|row| row.side)
        .filter(|side| *side != Side::Plain)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let whereabouts = match place {
        Place::Same => "on one node",
        Place::Cross => "across nodes",
    };
    let title = match services {
        0 => format!("{whereabouts}: ratio to plain routing"),
        _ => format!("{whereabouts}, {services} more services: ratio to plain routing"),
    };
    // A place more, for the legend.
    let width = metrics.len() as f64 * 1.08 + 0.2;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(36)
        .build_cartesian_2d(0.0..width, 0.0..RATIO_MAX)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .y_labels(6)
        .label_style((FONT, 12))
        .draw()?;
    chart.draw_series(LineSeries::new([(0.0, 1.0), (metrics.len() as f64, 1.0)], BLACK))?;

    // A group of bars for each figure takes up four fifths of its room.
    let bar = 0.8 / sides.len().max(1) as f64;
    for (number, side) in sides.iter().enumerate() {
        let color = color(*side);
        let bars = rows.iter().filter(|row| row.side == *side).map(|row| {
            let group = metrics.iter().take_while(|metric| **metric != row.metric).count();
            let left = group as f64 + 0.1 + bar * number as f64;
            (left, row.ratio_to_plain)
        });
        let bars: Vec<_> = bars.collect();
        chart
            .draw_series(bars.iter().map(|(left, ratio)| {
                let top = ratio.min(RATIO_MAX);
                Rectangle::new([(*left, 0.0), (left + bar * 0.9, top)], color.filled())
            }))?
            .label(side.to_string())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
        let above = (FONT, 10).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Bottom));
        chart.draw_series(bars.iter().map(|(left, ratio)| {
            let at = (left + bar * 0.45, ratio.min(RATIO_MAX * 0.96));
            Text::new(format!("{ratio:.2}"), at, above.clone())
        }))?;
    }

    let below =
        |size| (FONT, size).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
    for (group, metric) in metrics.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(group as f64 + 0.5, 0.0));
        area.draw(&Text::new(metric.to_string(), (x, y + 6), below(12)))?;
        if metric.is_better_lower() {
            area.draw(&Text::new("lower is better", (x, y + 22), below(10)))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 12))
        .draw()?;
    Ok(())
}

/// Told apart also by who does not see all colours (after Okabe and Ito).
fn color(side: Side) -> RGBColor {
    match side {
        Side::Plain => RGBColor(0, 0, 0),
        Side::Iptables => RGBColor(230, 159, 0),
        Side::Nftables => RGBColor(86, 180, 233),
        Side::Vxlan => RGBColor(204, 121, 167),
        Side::Haproxy => RGBColor(150, 150, 150),
        Side::Xylem => RGBColor(0, 114, 178),
        Side::XylemSocket => RGBColor(0, 158, 115),
    }
}
