//! Small pictures in rows: images, and what a block of the network makes of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::svg::{Canvas, ramp};
use crate::decode::{Image, png_bytes};

/// One small picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Picture {
    /// RGB8 (side, side, 3).
    Rgb { side: usize, pixels: Vec<u8> },
    /// Values of 0 to 255 (side, side), drawn in colours.
    Values { side: usize, values: Vec<u8> },
}

const CELL: f64 = 72.0;
const LEFT: f64 = 120.0;
const TOP: f64 = 52.0;

/// Rows of pictures with names, under named columns. A picture whose bytes do not fit its side is left out.
pub fn contact_sheet(title: &str, columns: &[String], rows: &[(String, Vec<Picture>)]) -> String {
    let width = (LEFT + columns.len() as f64 * CELL + 16.0).max(260.0);
    let mut canvas = Canvas::new(width, TOP + rows.len() as f64 * CELL + 12.0, title);
    for (column, name) in columns.iter().enumerate() {
        canvas.text(LEFT + (column as f64 + 0.45) * CELL, TOP - 8.0, "middle", name, "");
    }
    for (row, (name, pictures)) in rows.iter().enumerate() {
        let y = TOP + row as f64 * CELL;
        canvas.text(LEFT - 8.0, y + CELL / 2.0, "end", name, "");
        for (column, picture) in pictures.iter().enumerate() {
            let Some(image) = image_of(picture) else { continue };
            canvas.raw(&format!(
                "<image x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" style=\"image-rendering:pixelated\" \
                 href=\"data:image/png;base64,{}\"/>",
                LEFT + column as f64 * CELL,
                CELL - 6.0,
                CELL - 6.0,
                STANDARD.encode(png_bytes(&image))
            ));
        }
    }
    canvas.finish()
}

fn image_of(picture: &Picture) -> Option<Image> {
    let (side, pixels) = match picture {
        Picture::Rgb { side, pixels } => (*side, pixels.clone()),
        Picture::Values { side, values } => {
            (*side, values.iter().flat_map(|value| ramp(f64::from(*value) / 255.0)).collect())
        }
    };
    (side > 0 && pixels.len() == side * side * 3).then(|| Image::new(side as u32, side as u32, pixels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_holds_its_pictures_and_leaves_out_what_does_not_fit() {
        let row = vec![
            Picture::Rgb { side: 2, pixels: vec![9; 12] },
            Picture::Values { side: 2, values: vec![0, 100, 200, 255] },
            Picture::Values { side: 3, values: vec![0] },
        ];
        let svg = contact_sheet("maps", &["image".into(), "task 1".into()], &[("cat".into(), row)]);
        assert_eq!(svg.matches("<image ").count(), 2);
        assert!(svg.contains("data:image/png;base64,iVBOR"));
    }
}
