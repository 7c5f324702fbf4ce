//! Pictures as SVG that look right on light and on dark ground: colours are set by the reader's preference.
//!
//! [`heat_map`], [`lines`], [`scatter`] and [`contact_sheet`] each give one whole SVG file. What the numbers mean is the
//! caller's to say, in the title and the axes.
//!
//! ```
//! use lumpd::evaluate::pictures::{Series, lines};
//! let svg = lines("accuracy", ("images", "accuracy"), &[Series { name: "lump".into(), points: vec![(0.0, 0.3), (1.0, 0.5)] }]);
//! assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
//! ```

mod charts;
mod sheet;
mod svg;

pub use charts::{HeatMap, Point, Series, heat_map, lines, scatter};
pub use sheet::{Picture, contact_sheet};
