use std::fs;
use std::io::Write as _;

use super::*;
use crate::experiment::{RunSettings, Split, SplitKind};

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn open_here(name: &str, folder: &Path) -> Result<Dataset, ExperimentError> {
    open(name, folder, 32, Seed(0))
}

/// The code and the words of a refusal.
fn refused(name: &str, folder: &Path, code: &str, says: &[&str]) {
    let error = open_here(name, folder).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    for what in says {
        assert!(error.to_string().contains(what), "{what} is not in: {error}");
    }
}

fn cifar_record(labels: &[u8], value: u8) -> Vec<u8> {
    [labels, &[value; 1024], &[value + 1; 1024], &[value + 2; 1024]].concat()
}

#[test]
fn cifar_is_read_by_planes_and_checked_by_record() {
    let folder = tempfile::tempdir().unwrap();
    let ten = folder.path().join("cifar-10-batches-bin");
    refused("cifar10", folder.path(), "dataset-missing", &["data_batch_1.bin", "10,000 records", "Krizhevsky", "2009"]);
    for number in 1..=5 {
        let records = [cifar_record(&[number], 10), cifar_record(&[9], 20)].concat();
        write(&ten.join(format!("data_batch_{number}.bin")), &records);
    }
    write(&ten.join("test_batch.bin"), &cifar_record(&[3], 30));
    let dataset = open_here("cifar10", folder.path()).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len(), dataset.train.classes[2]), (10, 1, 2));
    assert_eq!(dataset.train.image(1)[..6], [20, 21, 22, 20, 21, 22]);
    assert_eq!((dataset.notes.len(), dataset.class_names.len()), (6, 10));
    let same = open_here("cifar10", &ten).unwrap();
    assert_eq!(same.hash(), dataset.hash());

    write(&ten.join("test_batch.bin"), &cifar_record(&[3], 30)[1..]);
    refused("cifar10", folder.path(), "dataset-damaged", &["test_batch.bin", "3072 bytes", "3073"]);
    write(&ten.join("test_batch.bin"), &cifar_record(&[10], 30));
    refused("cifar10", folder.path(), "dataset-damaged", &["class 10"]);

    let hundred = folder.path().join("cifar-100-binary");
    write(&hundred.join("train.bin"), &cifar_record(&[1, 99], 1));
    write(&hundred.join("test.bin"), &cifar_record(&[1, 7], 1));
    assert_eq!(open_here("cifar100", folder.path()).unwrap().train.classes, [99]);
}

#[test]
fn cifar_in_ten_lights_has_as_many_images_of_each_class_in_each() {
    let folder = tempfile::tempdir().unwrap();
    let write_batch =
        |name: &str, records: Vec<u8>| write(&folder.path().join("cifar-10-batches-bin").join(name), &records);
    for number in 1..=5 {
        write_batch(
            &format!("data_batch_{number}.bin"),
            [cifar_record(&[0], 100), cifar_record(&[7], 40)].concat().repeat(4),
        );
    }
    write_batch("test_batch.bin", cifar_record(&[3], 30).repeat(2));
    let dataset = open_here("cifar10-domains", folder.path()).unwrap();
    for domain in 0..10 {
        let train = &dataset.train;
        let of = |class| (0..40).filter(|&at| (train.domains[at], train.classes[at]) == (domain, class)).count();
        assert_eq!((of(0), of(7)), (2, 2), "domain {domain}");
    }
    let pixel = |at: usize| &dataset.train.image(at)[..3];
    assert_eq!((pixel(0), pixel(2)), (&[100u8, 101, 102][..], &[155u8, 154, 153][..]));
    // Every test image is in every domain.
    assert_eq!(dataset.test.domains, (0..10).flat_map(|domain| [domain; 2]).collect::<Vec<_>>());
    assert_eq!(dataset.test.classes, dataset.test.classes[..2].repeat(10));
    // Tasks are the domains, and a larger encoder's images are made of the same.
    let settings = RunSettings { dataset: "cifar10-domains".into(), ..RunSettings::default() };
    let split = Split::new(&RunSettings { tasks: 2, split: SplitKind::Domains, ..settings }, &dataset).unwrap();
    assert_eq!((split.tasks[1].train.len(), split.tasks[1].test.len()), (4, 2));
    assert_eq!(open("cifar10-domains", folder.path(), 64, Seed(0)).unwrap().train.image(0).len(), 64 * 64 * 3);
}

fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let header = [0x0800 + dimensions.len() as u32];
    let header = header.iter().chain(dimensions).flat_map(|number| number.to_be_bytes());
    header.chain(values.iter().copied()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

#[test]
fn mnist_is_read_packed_or_not_and_padded() {
    let folder = tempfile::tempdir().unwrap();
    let (image, file) = ([[200u8; 784], [100; 784]].concat(), |name: &str| folder.path().join(name));
    write(&file("train-images-idx3-ubyte.gz"), &gzip(&idx(&[2, 28, 28], &image)));
    write(&file("train-labels-idx1-ubyte"), &idx(&[2], &[3, 4]));
    write(&file("t10k-images-idx3-ubyte"), &idx(&[1, 28, 28], &image[..784]));
    refused("mnist", folder.path(), "dataset-missing", &["t10k-labels-idx1-ubyte", "LeCun", "1998"]);
    write(&file("t10k-labels-idx1-ubyte"), &idx(&[1], &[9]));
    let dataset = open_here("mnist", folder.path()).unwrap();
    assert_eq!((dataset.train.classes.as_slice(), dataset.test.classes.as_slice()), (&[3, 4][..], &[9][..]));
    let image = dataset.train.image(0);
    let at = |row: usize, column: usize| &image[(row * 32 + column) * 3..][..3];
    assert_eq!((at(1, 16), at(2, 2), at(29, 29), at(30, 29)), (&[0; 3][..], &[200; 3][..], &[200; 3][..], &[0; 3][..]));

    write(&file("t10k-labels-idx1-ubyte"), &idx(&[2], &[9]));
    refused("mnist", folder.path(), "dataset-damaged", &["says 2 records"]);
    write(&file("t10k-labels-idx1-ubyte"), &[1, 2, 3]);
    refused("mnist", folder.path(), "dataset-damaged", &["0x0801"]);
    fs::remove_file(file("t10k-labels-idx1-ubyte")).unwrap();
    write(&file("t10k-labels-idx1-ubyte.gz"), &gzip(&idx(&[1], &[9]))[..20]);
    refused("mnist", folder.path(), "dataset-damaged", &["cannot be unpacked"]);
}

fn mat_element(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut element = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
    element.extend_from_slice(data);
    element.resize(element.len().next_multiple_of(8), 0);
    element
}

fn mat_array(name: &str, class: u8, dimensions: &[u32], kind: u32, data: &[u8]) -> Vec<u8> {
    let dimensions: Vec<u8> = dimensions.iter().flat_map(|size| size.to_le_bytes()).collect();
    // A name of up to four letters is kept within its tag, as MATLAB does.
    let mut small = [1u16.to_le_bytes(), (name.len() as u16).to_le_bytes()].concat();
    small.extend_from_slice(name.as_bytes());
    small.resize(8, 0);
    let inner =
        [mat_element(6, &[class, 0, 0, 0, 0, 0, 0, 0]), mat_element(5, &dimensions), small, mat_element(kind, data)];
    mat_element(14, &inner.concat())
}

fn mat_file(arrays: &[Vec<u8>], compressed: bool) -> Vec<u8> {
    let mut file = vec![b' '; 124];
    file.extend_from_slice(&[0, 1, b'I', b'M']);
    for array in arrays {
        if !compressed {
            file.extend_from_slice(array);
            continue;
        }
        let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(array).unwrap();
        let packed = writer.finish().unwrap();
        file.extend_from_slice(&15u32.to_le_bytes());
        file.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        file.extend_from_slice(&packed);
    }
    file
}

#[test]
fn svhn_is_read_column_by_column_packed_or_not() {
    let folder = tempfile::tempdir().unwrap();
    // The value is 8 * row + column / 4 in red, 1 in green, 2 in blue; two images.
    let mut pixels = Vec::new();
    for _ in 0..2 {
        for channel in 0..3u8 {
            pixels.extend((0..1024usize).map(|at| match channel {
                0 => (at % 32 * 8 % 256) as u8 | (at / 32 / 4) as u8,
                channel => channel,
            }));
        }
    }
    let labels: Vec<u8> = [10f64, 7.0].iter().flat_map(|label| label.to_le_bytes()).collect();
    let arrays = [mat_array("X", 9, &[32, 32, 3, 2], 2, &pixels), mat_array("y", 6, &[2, 1], 9, &labels)];
    write(&folder.path().join("train_32x32.mat"), &mat_file(&arrays, true));
    refused("svhn", folder.path(), "dataset-missing", &["test_32x32.mat", "Netzer", "2011"]);
    write(&folder.path().join("test_32x32.mat"), &mat_file(&arrays, false));
    let dataset = open_here("svhn", folder.path()).unwrap();
    assert_eq!(dataset.train, dataset.test);
    assert_eq!(dataset.train.classes, [0, 7]);
    let image = dataset.train.image(1);
    assert_eq!(image[(5 * 32 + 12) * 3..][..3], [(5 * 8) | 3, 1, 2]);

    let file = mat_file(&arrays, true);
    for (cut, says) in [(130, "cut short"), (file.len() - 9, ""), (100, "no header")] {
        write(&folder.path().join("train_32x32.mat"), &file[..cut]);
        refused("svhn", folder.path(), "dataset-damaged", &["train_32x32.mat", says]);
    }
}

#[test]
fn any_bytes_after_a_mat_header_are_arrays_or_words() {
    for event in 0..300 {
        let mut random = Seed(3).random("mat", event);
        let mut file = mat_file(&[mat_array("y", 6, &[2, 1], 9, &[0; 16])], event % 2 == 0);
        for _ in 0..4 {
            let at = random.below(file.len() as u64) as usize;
            file[at] = random.below(256) as u8;
        }
        // Neither a panic nor memory without bound.
        let _ = matlab::arrays(&file);
    }
}

fn png(value: u8) -> Vec<u8> {
    crate::decode::png_bytes(&Image::new(40, 20, vec![value; 40 * 20 * 3]))
}

#[test]
fn class_folders_are_split_as_they_say_or_by_a_draw_that_repeats() {
    let folder = tempfile::tempdir().unwrap();
    refused("folder", &folder.path().join("absent"), "dataset-missing", &["DIR/train/CLASS/IMAGE"]);
    refused("folder", folder.path(), "dataset-damaged", &["no folder with images"]);
    for class in ["cat", "dog"] {
        for number in 0..20u8 {
            write(&folder.path().join(class).join(format!("{number}.png")), &png(number));
        }
        write(&folder.path().join(class).join("notes.txt"), b"no image");
    }
    let dataset = open_here("folder", folder.path()).unwrap();
    assert_eq!(dataset.class_names, ["cat", "dog"]);
    assert_eq!(dataset.train.len() + dataset.test.len(), 40);
    assert!((1..16).contains(&dataset.test.len()), "{}", dataset.test.len());
    assert_eq!(open_here("folder", folder.path()).unwrap().hash(), dataset.hash());
    write(&folder.path().join("cat/3.png"), b"damaged");
    refused("folder", folder.path(), "dataset-damaged", &["3.png"]);

    let apart = tempfile::tempdir().unwrap();
    write(&apart.path().join("train/a/1.png"), &png(1));
    write(&apart.path().join("val/a/2.png"), &png(2));
    let dataset = open_here("folder", apart.path()).unwrap();
    assert_eq!((dataset.train.pixels[0], dataset.test.pixels[0]), (1, 2));
}

#[test]
fn tiny_imagenet_is_read_as_published_and_by_class_folders() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tiny-imagenet-200");
    refused("tiny-imagenet", folder.path(), "dataset-missing", &["train", "Le and X. Yang", "2015"]);
    write(&root.join("wnids.txt"), b"n2\nn1\n");
    write(&root.join("train/n1/images/n1_0.JPEG.png"), &png(1));
    write(&root.join("train/n2/images/n2_0.png"), &png(2));
    write(&root.join("val/images/val_0.png"), &png(3));
    write(&root.join("val/val_annotations.txt"), b"val_0.png\tn1\t0\t0\t1\t1\n");
    let dataset = open_here("tiny-imagenet", folder.path()).unwrap();
    assert_eq!(
        (dataset.class_names.as_slice(), &*dataset.test.classes),
        (&["n2".to_owned(), "n1".into()][..], &[1][..])
    );
    assert_eq!((&*dataset.train.classes, dataset.notes.len()), (&[1, 0][..], 2));
    write(&root.join("val/val_annotations.txt"), b"val_9.png\tn1\n");
    refused("tiny-imagenet", folder.path(), "dataset-missing", &["val_9.png"]);
}

#[test]
fn a_manifest_keeps_tracks_apart_and_knows_domains() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("file\tphase\tclass\ttrack\n");
    for index in 0..32u8 {
        let (phase, class, track) = (["bright", "dark"][usize::from(index / 16)], 10 - index % 2, index / 2);
        text.push_str(&format!("frames/{index}.png\t{phase}\t{class}\t{track}\n"));
        write(&folder.path().join(format!("frames/{index}.png")), &png(index));
    }
    write(&folder.path().join("manifest.tsv"), text.as_bytes());
    let dataset = open_here("manifest", folder.path()).unwrap();
    assert_eq!(dataset.class_names, ["9", "10"]);
    assert_eq!((dataset.train.len(), dataset.test.len()), (24, 8));
    assert_eq!((dataset.train.domains[0], *dataset.train.domains.last().unwrap()), (0, 1));
    // Eight tracks of each class in a phase, counted from 0.
    assert_eq!(dataset.train.tracks[..6], [0, 0, 1, 1, 2, 2]);
    assert_eq!(dataset.test.tracks, [3, 3, 7, 7, 3, 3, 7, 7]);
    write(&folder.path().join("manifest.tsv"), b"file\tclass\nframes/0.png\n");
    refused("manifest", folder.path(), "dataset-damaged", &["line 2"]);
    refused("manifest", &folder.path().join("frames"), "dataset-missing", &["manifest.tsv"]);
}

#[test]
fn the_simulated_stream_has_products_for_classes_and_phases_for_domains() {
    let dataset = open("simulated", Path::new("/nonexistent"), 8, Seed(1)).unwrap();
    assert_eq!((dataset.class_names.len(), dataset.train.image(0).len()), (8, 192));
    assert_eq!(dataset.train.domains.iter().max(), Some(&4));
    assert_ne!(dataset.train.pixels[..192], dataset.test.pixels[..192]);
}

/// The published files, where they are at hand.
#[test]
fn real_datasets_are_read_where_they_are_at_hand() {
    let Some(folder) = std::env::var_os("LUMPD_DATA").map(PathBuf::from) else {
        eprintln!("skipped: LUMPD_DATA names no folder of real images");
        return;
    };
    let expected = [("cifar10", 10, 10_000), ("cifar100", 100, 5_000), ("mnist", 10, 10_000), ("manifest", 12, 0)];
    for (name, classes, tests) in expected {
        match open_here(name, &folder) {
            Err(ExperimentError::Missing { .. }) => eprintln!("skipped: {name} is not there"),
            dataset => {
                let dataset = dataset.unwrap();
                assert_eq!(dataset.class_names.len(), classes, "{name}");
                assert!(dataset.test.len() >= tests && !dataset.train.is_empty(), "{name}: {}", dataset.test.len());
            }
        }
    }
}
