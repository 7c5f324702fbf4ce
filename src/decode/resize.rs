//! Any image to the encoder's square.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use super::Image;
use crate::config::Fit;

/// Scales `image`, shape (height, width, 3), to (side, side, 3) with the triangle filter stretched over the pixels that one
/// output pixel covers (as Pillow's BILINEAR does), so that shrinking does not alias. An image that has the size already is
/// passed through unchanged, bit for bit.
///
/// # Panics
/// If `image` has no pixels or `side` is 0: a fault of the caller, never of the data (a decoded image has pixels).
pub fn to_square(image: &Image, side: u32, fit: Fit) -> Image {
    assert!(side > 0 && image.width() > 0 && image.height() > 0, "an image of {image:?} to a side of {side}");
    if (image.width(), image.height()) == (side, side) {
        return image.clone();
    }
    let source = TypedImageRef::<U8x3>::from_buffer(image.width(), image.height(), image.pixels());
    let mut target = TypedImage::<U8x3>::new(side, side);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    let options = match fit {
        Fit::Crop => options.fit_into_destination(None),
        Fit::Stretch => options,
    };
    let resized = match &source {
        Ok(source) => Resizer::new().resize_typed(source, &mut target, &options).is_ok(),
        Err(_) => false,
    };
    assert!(resized, "an Image has the pixels of its size, and a crop lies within it");
    let pixels = target.pixels().iter().flat_map(|pixel| pixel.0).collect();
    Image::new(side, side, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> Image {
        let pixel = |at: u32| [(at % width) as u8, (at / width) as u8, 9];
        Image::new(width, height, (0..width * height).flat_map(pixel).collect())
    }

    #[test]
    fn the_right_size_passes_through_unchanged() {
        let image = gradient(32, 32);
        assert_eq!(to_square(&image, 32, Fit::Crop), image);
        assert_eq!(to_square(&image, 32, Fit::Stretch), image);
    }

    #[test]
    fn crop_takes_the_centred_square_of_the_shorter_side() {
        // Exactly the middle 20 columns of 60, at their own scale.
        let square = to_square(&gradient(60, 20), 20, Fit::Crop);
        let columns: Vec<_> = square.pixels()[..60].chunks(3).map(|pixel| pixel[0]).collect();
        assert_eq!(columns, (20..40).collect::<Vec<_>>());
    }

    #[test]
    fn stretch_keeps_the_borders() {
        let square = to_square(&gradient(64, 16), 16, Fit::Stretch);
        let row = &square.pixels()[..48];
        assert!(row[0] <= 3 && row[45] >= 60, "{row:?}");
    }

    #[test]
    fn shrinking_averages_instead_of_picking() {
        let stripes = Image::new(64, 64, (0..64 * 64).flat_map(|at| [if at % 2 == 0 { 0 } else { 200 }; 3]).collect());
        let inner = to_square(&stripes, 8, Fit::Crop);
        assert!(inner.pixels().iter().all(|value| value.abs_diff(100) <= 8), "{:?}", inner.pixels());
    }

    #[test]
    fn one_pixel_fills_the_square() {
        assert_eq!(to_square(&Image::new(1, 1, vec![1, 2, 3]), 4, Fit::Crop).pixels(), [1, 2, 3].repeat(16));
    }
}
