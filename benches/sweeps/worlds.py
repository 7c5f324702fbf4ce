#!/usr/bin/env python3
"""Five worlds as one manifest: photographs, traffic signs, digits, garments and objects, each of another dataset.

A stream that goes from one to the next makes an encoder forget; `evidence-worlds.toml` measures that.
Needs numpy and pillow. Usage: worlds.py DATA OUT, with DATA the folder of the datasets as their authors publish them.
"""
import csv
import gzip
import pathlib
import sys

import numpy as np
from PIL import Image

TRAIN, TEST = 2000, 1000


def cifar(folder):
    """CIFAR-10, binary version."""
    for split, names in (("train", ["data_batch_1.bin"]), ("test", ["test_batch.bin"])):
        for name in names:
            rows = np.fromfile(folder / "cifar-10-batches-bin" / name, np.uint8).reshape(-1, 3073)
            for row in rows:
                yield split, str(row[0]), row[1:].reshape(3, 32, 32).transpose(1, 2, 0)


def idx(folder, parts):
    """Digits and garments: idx files; `parts` says which images of which file are for what."""
    for split, stem, start in parts:
        with gzip.open(folder / f"{stem}-images-idx3-ubyte.gz") as file:
            images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(folder / f"{stem}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        for image, label in zip(images[start:], labels[start:]):
            yield split, str(label), np.repeat(image[:, :, None], 3, 2)


def signs(folder):
    """Tracks of traffic signs, one in four of each class for tests; every second frame, since neighbours are alike."""
    folder = folder / "gtsrb-tracks"
    tracks = {}
    with open(folder / "manifest.tsv") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            tracks.setdefault((row["class"], row["track"]), []).append(row["file"])
    for number, ((label, _), files) in enumerate(sorted(tracks.items())):
        for file in files[::2]:
            yield ("test" if number % 4 == 3 else "train"), label, np.asarray(Image.open(folder / file).convert("RGB"))


def objects(folder):
    """CIFAR-100, binary version, in its twenty superclasses."""
    for split in ("train", "test"):
        rows = np.fromfile(folder / "cifar-100-binary" / f"{split}.bin", np.uint8).reshape(-1, 3074)
        for row in rows:
            yield split, str(row[0]), row[2:].reshape(3, 32, 32).transpose(1, 2, 0)


def main():
    data, out = map(pathlib.Path, sys.argv[1:3])
    worlds = {
        "photographs": cifar(data),
        "digits": idx(data / "mnist", [("train", "train", 0), ("test", "t10k", 0)]),
        "signs": signs(data),
        "garments": idx(data / "fashion-mnist", [("train", "t10k", 0), ("test", "t10k", 5000)]),
        "objects": objects(data),
    }
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "manifest.tsv", "w") as manifest:
        manifest.write("file\tclass\tphase\ttrack\tsplit\n")
        for world, images in worlds.items():
            (out / world).mkdir(exist_ok=True)
            left = {"train": TRAIN, "test": TEST}
            for number, (split, label, pixels) in enumerate(images):
                if left[split] == 0:
                    continue
                left[split] -= 1
                file = f"{world}/{split}-{left[split]}.png"
                Image.fromarray(pixels).resize((32, 32)).save(out / file)
                manifest.write(f"{file}\t{world}-{label}\t{world}\t{number}\t{split}\n")
            print(f"{world}: {TRAIN - left['train']} training and {TEST - left['test']} test images")


if __name__ == "__main__":
    main()
