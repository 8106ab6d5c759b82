"""helpers.datasets.folder: images of every size and kind, and what is no image."""

import gc
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import all_images, all_labels, equal
from PIL import Image

from helpers import data
from helpers.data import Dataset, Split
from helpers.datasets import folder
from helpers.datasets.folder import read_image

# --- a folder of one's own images ---------------------------------------------------------------


def encode(image: Image.Image, kind: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def turned_by_90_degrees() -> tuple[Image.Image, Image.Exif]:
    """White above, black below, but stored lying on its side, with a note of how to turn it."""
    upright = Image.new("RGB", (64, 64), "black")
    upright.paste((255, 255, 255), (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    return upright.transpose(Image.Transpose.ROTATE_90), exif


@pytest.fixture
def mine(tmp_path) -> Path:
    """Three classes of 10, 10 and 3 images of every kind, and files that are none."""
    root = tmp_path / "my images"
    for name in ("übel", "a b", "Zebra"):
        (root / name).mkdir(parents=True)
    random = np.random.RandomState(0)
    turned, exif = turned_by_90_degrees()
    turned.save(root / "Zebra" / "turned.jpg", exif=exif)
    Image.new("RGBA", (50, 40), (255, 0, 0, 0)).save(root / "Zebra" / "clear.PNG")
    Image.new("P", (3, 90), 1).save(root / "Zebra" / "palette.webp", lossless=True)
    for i in range(10):
        pixels = random.randint(0, 256, (40 + i, 33, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "übel" / f"{i}.bmp")
        Image.fromarray(pixels[..., 0]).convert("L").save(root / "a b" / f"{i}.jpeg")
    (root / "übel" / "notes.txt").write_text("!")
    (root / "übel" / ".hidden.png").write_bytes(b"!")
    (root / ".cache").mkdir()
    (root / "readme.md").write_text("!")
    return root


def test_a_folder_of_images_of_every_kind(mine, monkeypatch):
    dataset = data.load("folder", root=mine)
    assert dataset.name == "folder" and dataset.classes == ("Zebra", "a b", "übel")
    counts = [torch.bincount(split.labels, minlength=3).tolist() for split in vars_of(dataset)]
    assert counts == [[1, 8, 8], [1, 1, 1], [1, 1, 1]]
    assert dataset.train.images.shape == (17, 3, 32, 32)
    values = dataset.train.images.numpy().astype(np.float64) / 255
    assert np.allclose(dataset.mean, values.mean(axis=(0, 2, 3)), atol=6e-5)
    assert np.allclose(dataset.std, values.std(axis=(0, 2, 3), ddof=1), atol=6e-5)
    expected = set()  # every image once, with its own class
    for label, name in enumerate(dataset.classes):
        files = [f for f in (mine / name).iterdir() if f.suffix != ".txt" and f.name[0] != "."]
        expected |= {(read_image(file)[0].numpy().tobytes(), label) for file in files}
    pairs = zip(all_images(dataset).numpy(), all_labels(dataset).tolist())
    assert {(image.tobytes(), label) for image, label in pairs} == expected
    assert len(expected) == len(all_labels(dataset)) == 23
    monkeypatch.chdir(mine.parent)
    assert equal(dataset, data.load("folder", root="my images"))  # the same split every time
    monkeypatch.setenv("HOME", str(mine.parent))
    monkeypatch.setenv("USERPROFILE", str(mine.parent))
    assert equal(dataset, data.load("folder", root="~/my images"))


def vars_of(dataset: Dataset) -> list[Split]:
    return [dataset.train, dataset.val, dataset.test]


def test_another_size_and_another_seed(mine):
    large = folder.load(mine, size=48)
    assert large.train.images.shape == (17, 3, 48, 48)
    other = folder.load(mine, seed=1)
    assert not torch.equal(all_images(other), all_images(folder.load(mine)))


def many(root: Path, counts: list[int]) -> Path:
    """A folder with that many images, all different, in each class."""
    for label, n in enumerate(counts):
        (root / f"class {label:03d}").mkdir(parents=True)
        for i in range(n):
            colour = (label % 256, i, i % 2 * 255)
            Image.new("RGB", (4, 4), colour).save(root / f"class {label:03d}" / f"{i}.png")
    return root


@pytest.mark.parametrize("counts", [[100, 47], [3] * 300])
def test_splits_are_80_10_10_per_class_disjoint_and_shuffled(tmp_path, counts):
    dataset = folder.load(many(tmp_path / "many", counts), size=4)
    dataset.check()
    for split, share in zip(vars_of(dataset), (None, 10, 10)):
        if share:
            expected = [max(1, n // share) for n in counts]
            assert torch.bincount(split.labels).tolist() == expected
        assert split.labels.tolist() != sorted(split.labels.tolist())
        assert torch.equal(split.images[:, 0, 0, 0].long(), split.labels % 256)
    keys = zip(all_labels(dataset).tolist(), all_images(dataset)[:, 1, 0, 0].tolist())
    assert len(set(keys)) == sum(counts) == len(all_labels(dataset))


def test_a_class_name_of_two_code_points_is_one_name(tmp_path):
    root = many(tmp_path / "many", [3, 3])
    (root / "class 000").rename(root / "u\u0308bel")  # as macOS may store it
    assert folder.load(root, size=4).classes == ("class 001", "übel")


def test_a_network_learns_from_such_a_folder(mine):
    from helpers.training import TrainConfig, fit

    dataset = data.load("folder", root=mine)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3))
    config = TrainConfig(batch_size=8, epochs=1, device="cpu", precision="float32")
    assert len(fit(model, dataset, config, progress=False)) == 1


def folder_error(root: Path | None, error: type, words: str) -> None:
    with pytest.raises(error, match=words) as stop:
        data.load("folder", root=root)
    assert "\n" not in str(stop.value)


def test_a_folder_that_cannot_be_used_gets_one_clear_line(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_error(None, ValueError, "folder needs root=… .--root ….: the folder with one subfolder")
    folder_error("gone", FileNotFoundError, f"{tmp_path}/gone does not exist")
    folder_error(mine / "readme.md", FileNotFoundError, "readme.md is not a folder")
    folder_error(mine / "a b", ValueError, "needs at least two subfolders, .* found none")
    for name in ("Zebra", "übel"):
        (mine / name).rename(tmp_path / name)
    folder_error(mine, ValueError, "needs at least two subfolders, .* found only 'a b'")
    (mine / "few").mkdir()
    for found in range(3):
        words = f"class 'few' needs at least 3 images directly in {mine}/few.*: found {found}"
        folder_error(mine, ValueError, words)
        Image.new("L", (9, 9), found).save(mine / "few" / f"{found}.png")
    assert data.load("folder", root=mine).classes == ("a b", "few")


@pytest.mark.parametrize("name", ["damaged.png", "photo.heic", "film.gif"])
def test_an_image_that_cannot_be_read_is_named(mine, name):
    (mine / "a b" / name).write_bytes(b"not an image\n" * 50)
    folder_error(mine, ValueError, f"a b/{name} is no readable JPEG, PNG, .*convert or remove it")


def test_images_of_one_colour_cannot_be_normalised(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (9, 9), "grey").save(tmp_path / name / f"{i}.png")
    folder_error(tmp_path, ValueError, "std must be three numbers above 0 to 1")


# --- reading one image --------------------------------------------------------------------------


def test_an_image_of_the_right_size_is_read_as_it_is():
    pixels = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    image = read_image(encode(Image.fromarray(pixels)))
    assert image.shape == (1, 3, 32, 32) and image.dtype == torch.uint8
    assert np.array_equal(image[0].permute(1, 2, 0).numpy(), pixels)


def test_the_central_square_is_taken_and_scaled():
    pixels = np.zeros((60, 100, 3), dtype=np.uint8)
    pixels[:, 20:80] = (10, 200, 90)  # the central square
    image = read_image(encode(Image.fromarray(pixels)))
    inner = image[0, :, :, 3:-3]  # the filter blurs the edges
    assert (inner == torch.tensor([10, 200, 90])[:, None, None]).all()
    assert image[0, 1, :, [0, -1]].min() > 100


KINDS = {  # mode: colour, and what it is in RGB
    "L": (77, (77, 77, 77)),
    "LA": ((77, 255), (77, 77, 77)),
    "RGB": ((200, 30, 60), (200, 30, 60)),
    "RGBA": ((200, 30, 60, 255), (200, 30, 60)),
    "1": (1, (255, 255, 255)),
    "I;16": (200 * 256 + 17, (200, 200, 200)),
}


@pytest.mark.parametrize("mode", KINDS)
def test_every_kind_of_png(mode):
    colour, expected = KINDS[mode]
    image = read_image(encode(Image.new(mode, (50, 40), colour)))
    assert (image[0] == torch.tensor(expected)[:, None, None]).all()


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def test_sixteen_bits_of_colour():
    row = b"\0" + struct.pack(">3H", 200 * 256, 30 * 256 + 255, 60 * 256) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)  # 4×4 pixels, 16 bits, RGB
    pixels = chunk(b"IDAT", zlib.compress(row * 4))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")
    assert read_image(io.BytesIO(png))[0, :, 0, 0].tolist() == [200, 30, 60]


def test_transparency_becomes_white():
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    clear = [
        encode(Image.new("RGBA", (40, 40), (255, 0, 0, 0))),
        encode(Image.new("LA", (40, 40), (0, 0))),
        encode(palette, transparency=1),
    ]
    for file in clear:
        assert (read_image(file) == 255).all()


def test_cmyk_jpeg():
    red = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    r, g, b = read_image(encode(red, "JPEG"))[0, :, 16, 16].tolist()
    assert r > 240 and g < 15 and b < 15


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_followed(kind):
    turned, exif = turned_by_90_degrees()
    image = read_image(encode(turned, kind, exif=exif))[0].float().mean(dim=0)
    assert image[:14].min() > 240 and image[18:].max() < 15


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (5000, 4000)])
def test_sizes_from_one_pixel_to_twenty_million(size):
    image = read_image(encode(Image.new("RGB", size, (9, 8, 7)), "PNG", compress_level=1))
    assert (image[0] == torch.tensor([9, 8, 7])[:, None, None]).all()


def damaged() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.RandomState(1).randint(0, 256, (80, 80, 3), dtype=np.uint8))
    jpeg, png = encode(noise, "JPEG").getvalue(), encode(noise).getvalue()
    wrong = bytearray(png)
    wrong[len(png) // 2] ^= 0xFF
    huge = bytearray(encode(Image.new("1", (8, 8))).getvalue())
    huge[16:24] = struct.pack(">II", 20_000, 20_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(bytes(huge[12:29])))
    return {
        "empty": b"",
        "text": b"not an image\n" * 50,
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "half a PNG": png[: len(png) // 2],
        "a flipped byte": bytes(wrong),
        "a GIF": encode(noise, "GIF").getvalue(),
        "400 megapixels": bytes(huge),
        "a header alone": png[:30],
    }


@pytest.mark.parametrize("name", damaged())
def test_what_is_no_image_is_refused_in_one_line(tmp_path, name, recwarn):
    file = tmp_path / "mine.png"
    file.write_bytes(damaged()[name])
    with pytest.raises(ValueError, match=f"{file} is no readable JPEG, PNG") as caught:
        read_image(file)
    assert "\n" not in str(caught.value) and not recwarn.list
    del caught
    gc.collect()
    assert not recwarn.list  # the file is closed, too


def test_an_image_of_a_hundred_megapixels_is_refused(recwarn):
    """Pillow warns from 89 megapixels on; here it is one line, before anything is decoded."""
    with pytest.raises(ValueError, match="^this is no readable .*Bomb"):
        read_image(encode(Image.new("1", (10_000, 10_000))))
    assert not [w for w in recwarn if w.category is Image.DecompressionBombWarning]


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="no readable"):
        read_image(tmp_path)
