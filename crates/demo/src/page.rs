//! A page of pixels, read from a PNG file.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::Area;

/// An RGB image with 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    width: usize,
    height: usize,
    /// Rows of R, G, B.
    pixels: Vec<u8>,
}

/// Why a page cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The file cannot be opened.
    #[error("the page {} cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no PNG image.
    #[error("the page {} is no PNG image: {source}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: png::DecodingError,
    },
    /// The image is of a kind that is not read here.
    #[error("the page {} is {found}; save it as RGB with 8 bits a channel", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// Its colour type and depth.
        found: String,
    },
    /// The detector cannot take the image's size.
    #[error("the page {} has {width}x{height} pixels; both must be multiples of 32, so crop or pad it", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
}

/// Bytes that decoding may take: a page of 60 million pixels. A file's own word is not enough for more.
const LIMIT: usize = 180 << 20;

impl Page {
    /// Reads an RGB PNG whose sides are multiples of 32, the detector's stride.
    ///
    /// # Errors
    ///
    /// Where the file is missing, broken, of another kind of colour, of another size, or beyond 180 MiB of pixels.
    pub fn open(path: &Path) -> Result<Self, PageError> {
        let name = || path.to_path_buf();
        let file = File::open(path).map_err(|source| PageError::Open {
            path: name(),
            source,
        })?;
        let failed = |source| PageError::Decode {
            path: name(),
            source,
        };
        let limits = png::Limits { bytes: LIMIT };
        let mut reader = png::Decoder::new_with_limits(BufReader::new(file), limits)
            .read_info()
            .map_err(failed)?;
        let info = reader.info();
        if (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
            let found = format!("{:?} with {:?} bits", info.color_type, info.bit_depth);
            return Err(PageError::Kind {
                path: name(),
                found,
            });
        }
        let (width, height) = (info.width as usize, info.height as usize);
        if width % 32 != 0 || height % 32 != 0 {
            return Err(PageError::Size {
                path: name(),
                width,
                height,
            });
        }
        let size = reader.output_buffer_size().filter(|size| *size <= LIMIT);
        let mut pixels = vec![0; size.ok_or_else(|| failed(png::DecodingError::LimitsExceeded))?];
        reader.next_frame(&mut pixels).map_err(failed)?;
        Ok(Self {
            width,
            height,
            pixels,
        })
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// The whole page.
    #[must_use]
    pub fn area(&self) -> Area {
        Area {
            left: 0,
            top: 0,
            right: self.width,
            bottom: self.height,
        }
    }

    /// One channel of one pixel, 0 to 255; channel 0 is blue, 1 green, 2 red.
    pub(crate) fn bgr(&self, x: usize, y: usize, channel: usize) -> f32 {
        f32::from(self.pixels[(y * self.width + x) * 3 + 2 - channel])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(color: png::ColorType, width: u32, height: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.png");
        let mut encoder = png::Encoder::new(File::create(&path).unwrap(), width, height);
        encoder.set_color(color);
        let mut writer = encoder.write_header().unwrap();
        let bytes = (0..width as usize * height as usize * color.samples())
            .map(|i| i as u8)
            .collect::<Vec<_>>();
        writer.write_image_data(&bytes).unwrap();
        drop(writer);
        (folder, path)
    }

    #[test]
    fn channels_are_turned_round() {
        let (_folder, path) = written(png::ColorType::Rgb, 32, 32);
        let page = Page::open(&path).unwrap();
        // The second pixel of the first row is (3, 4, 5) as R, G, B.
        assert_eq!([0, 1, 2].map(|c| page.bgr(1, 0, c)), [5.0, 4.0, 3.0]);
        assert_eq!((page.width(), page.height()), (32, 32));
    }

    #[test]
    fn other_images_are_refused_with_a_remedy() {
        let (folder, gray) = written(png::ColorType::Grayscale, 32, 32);
        assert!(
            Page::open(&gray)
                .unwrap_err()
                .to_string()
                .contains("save it as RGB")
        );
        let (_folder, odd) = written(png::ColorType::Rgb, 33, 32);
        assert!(Page::open(&odd).unwrap_err().to_string().contains("33x32"));
        assert!(matches!(
            Page::open(&folder.path().join("none.png")),
            Err(PageError::Open { .. })
        ));
        let cut = std::fs::read(&odd).unwrap();
        std::fs::write(&gray, &cut[..cut.len() / 2]).unwrap();
        assert!(matches!(
            Page::open(&gray),
            Err(PageError::Decode { .. } | PageError::Size { .. })
        ));
        std::fs::write(&gray, b"no image").unwrap();
        assert!(matches!(Page::open(&gray), Err(PageError::Decode { .. })));
    }
}
