"""Promises of what is measured and split without PyTorch: a shop's photos, altered photos, covering boxes. Needs no data folder."""

import argparse
import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import failures  # noqa: E402
import metrics  # noqa: E402
import robustness  # noqa: E402
import run_files  # noqa: E402
import shop  # noqa: E402
from test_files import LARGE, full_disk  # noqa: E402

CATALOGUE = Path(__file__).resolve().parents[2] / "tests" / "catalogue"


def some_photos(folder: Path, counts: dict[str, int]) -> Path:
    for place, (label, count) in enumerate(counts.items()):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, place)).save(folder / label / f"{number}.png")
    return folder


def test_folders_and_csv_files_name_the_same_labels(tmp_path, capsys):
    folder = some_photos(tmp_path / "photos", {"shirt": 4, "skirt": 5, "single": 1})
    (folder / "stray.png").write_bytes((folder / "shirt" / "0.png").read_bytes())
    (folder / "shirt" / "notes.txt").write_text("not a photo")
    (folder / "shirt" / "._0.png").write_bytes(b"what macOS leaves beside a photo")
    shutil.copytree(folder / "shirt", folder / ".trash" / "shirt")
    by_folder = shop.read(folder, 1)
    said = capsys.readouterr().out
    assert "photos: left out what is no photo of a kind that is read: .txt 1" in said
    assert "photos: left out 1 photos that lie in no sub-folder" in said
    assert sorted(set(by_folder.labels)) == ["shirt", "skirt"]  # one photo teaches nothing
    assert len(by_folder.paths) == 9
    listing = tmp_path / "photos" / "list.csv"
    with open(listing, "w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["path", "item_id"])
        rows.writerows([path.relative_to(folder), label] for path, label in zip(by_folder.paths, by_folder.labels))
    by_csv = shop.read(listing, 1)
    assert by_csv.paths == by_folder.paths and (by_csv.labels == by_folder.labels).all() and (by_csv.held == by_folder.held).all()
    listing.write_text("file,sku\na,b\n")
    with pytest.raises(SystemExit, match="path and item_id or label"):
        shop.read(listing, 1)
    with pytest.raises(SystemExit, match="two labels with two photos each"):
        shop.read(some_photos(tmp_path / "few", {"shirt": 3}), 1)


def test_a_photo_that_is_there_twice_counts_once(tmp_path, capsys):
    """A feed with one row for each size of a product, and copies under other names: else a held-out photo is trained on, too."""
    folder = some_photos(tmp_path / "photos", {f"item{number}": 2 for number in range(6)})
    once = shop.read(folder, 1)
    lines = [f"{path.relative_to(folder)},{label}" for path, label in zip(once.paths, once.labels)]
    shutil.copy(folder / "item0" / "0.png", folder / "item0" / "copy.png")
    (folder / "list.csv").write_text("\n".join(["path,item_id", *lines, *lines, "./item0/1.png,item0", "item0/copy.png,item0"]))
    capsys.readouterr()
    for source, left_out in ((folder / "list.csv", 14), (folder, 1)):
        photos = shop.read(source, 1)
        assert photos.paths == once.paths and (photos.held == once.held).all()
        assert f"{source}: left out {left_out} that are a photo given before, listed again or copied" in capsys.readouterr().out
    (folder / "list.csv").write_text("\n".join(["path,item_id", *lines, "item0/1.png,item3", "item0/copy.png,item4"]))
    says = "item0/1.png is the same photo as .*item0/1.png, but .*item0/copy.png is the same photo as .*item0/0.png, but the one is of item4, the other of item0"
    with pytest.raises(SystemExit, match=f"(?s){says}\n.*list.csv: a photo has one label"):
        shop.read(folder / "list.csv", 1)
    (folder / "item0" / "2.png").symlink_to(folder / "nope.png")  # named with all others that cannot be read
    with pytest.raises(SystemExit, match="2.png: cannot be read"):
        shop.check(shop.read(folder, 1).paths)


def test_a_listing_that_cannot_be_read_is_named_in_one_sentence(tmp_path):
    folder = some_photos(tmp_path / "photos", {"shirt": 4, "skirt": 5})
    listing = folder / "list.csv"
    lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]

    def read(rows: list[str], encoding: str = "utf-8") -> shop.Photos:
        listing.write_text("\n".join(["path,label", *rows]), encoding=encoding)
        return shop.read(listing, 1)

    assert len(read(lines, "utf-8-sig").paths) == 9  # as spreadsheets write it
    assert len(read([*lines, "shirt/0.png"]).paths) == 9  # without a label
    with pytest.raises(SystemExit, match=r"list.csv, line 11: there is no photo .*shirt/nope.png"):
        read([*lines, "shirt/nope.png,shirt"])
    with pytest.raises(SystemExit, match="list.csv, line 2: has no path"):
        read([",shirt", *lines])
    with pytest.raises(SystemExit, match="list.csv: cannot be read as CSV in UTF-8"):
        read(lines, "utf-16")
    with pytest.raises(SystemExit, match="nope: there is no such folder or CSV file"):
        shop.read(tmp_path / "nope", 1)


def test_options_of_a_run_are_numbers_above_zero(capsys):
    parser = argparse.ArgumentParser()
    run_files.add_options(parser, "mine")
    assert parser.parse_args(["--steps", "3", "--rate", "1e-4"]).steps == 3
    for option, value in (("--steps", "0"), ("--batch", "-1"), ("--threads", "two"), ("--rate", "nan"), ("--rate", "0"), ("--rate", "inf")):
        with pytest.raises(SystemExit):
            parser.parse_args([f"{option}={value}"])
        assert f"argument {option}: {value} is no" in capsys.readouterr().err


def of_photo(path: Path) -> list:
    image = shop.opened(path)
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def test_photos_are_opened_as_the_product_reads_them(tmp_path):
    path, white = tmp_path / "photo.png", [255, 255, 255]
    colours = np.array([[[200, 40, 10, 255], [200, 40, 10, 0], [200, 40, 10, 102]]], np.uint8)
    over_white = [[[200, 40, 10], white, [233, 169, 157]]]
    Image.fromarray(colours).save(path)
    assert of_photo(path) == over_white
    Image.fromarray(np.array([[[80, 255], [80, 0], [80, 51]]], np.uint8), "LA").save(path)
    assert of_photo(path) == [[[80] * 3, white, [220] * 3]]
    palette = Image.new("P", (3, 1))
    palette.putpalette([200, 40, 10, 0, 0, 255, 9, 9, 9])
    palette.putdata([0, 1, 2])
    palette.save(path)
    assert of_photo(path) == [[[200, 40, 10], [0, 0, 255], [9, 9, 9]]]
    palette.save(path, transparency=1)
    assert of_photo(path) == [[[200, 40, 10], white, [9, 9, 9]]]
    palette.save(path, transparency=bytes([255, 255, 0]))
    assert of_photo(path) == [[[200, 40, 10], [0, 0, 255], white]]
    Image.new("RGB", (1, 1), (9, 9, 9)).save(path, transparency=(9, 9, 9))
    assert of_photo(path) == [[white]]
    sixteen = Image.fromarray(np.array([[0, 257, 128 * 257 + 128, 128 * 257 + 129, 65535]], np.uint16))
    assert sixteen.mode == "I;16"
    for file in (path, path.with_suffix(".tif")):
        sixteen.save(file)
        assert of_photo(file) == [[[grey] * 3 for grey in (0, 1, 128, 129, 255)]]
    Image.fromarray(np.array([[0.0, 0.5, 1.0, 7.0]], np.float32)).save(path.with_suffix(".tif"))
    assert of_photo(path.with_suffix(".tif")) == [[[grey] * 3 for grey in (0, 128, 255, 255)]]
    turned = Image.Exif()
    turned[0x0112] = 6  # shown upright when turned 90 degrees clockwise
    for photo in (Image.fromarray(colours), sixteen, palette):
        photo.save(path)
        plain = of_photo(path)
        photo.save(path, exif=turned)
        assert of_photo(path) == [[pixel] for pixel in plain[0]]


def test_photos_are_opened_as_the_tests_of_the_product_have_them():
    images = Path(__file__).resolve().parents[2] / "crates" / "vision" / "tests" / "images"
    plain, upright = (np.asarray(shop.opened(images / name), int) for name in ("plain.png", "turned.png"))
    assert (upright == np.rot90(plain, -1)).all()
    alpha = (np.arange(37) * 255 // 36)[None, :, None]
    assert np.abs(np.asarray(shop.opened(images / "alpha.png")) - (plain * alpha + 255.0 * (255 - alpha)) / 255).max() <= 0.5
    grey = np.asarray(Image.fromarray(plain.astype(np.uint8)).convert("L"))
    assert (np.asarray(shop.opened(images / "gray16.png")) == grey[..., None]).all()
    assert (np.asarray(shop.opened(images / "palette.png")) == np.asarray(shop.opened(images / "palette_as_rgba.png"))).all()


def test_the_split_holds_out_photos_of_few_labels_and_whole_labels_of_many(tmp_path):
    few = shop.read(some_photos(tmp_path / "few", {"shirt": 8, "skirt": 4, "hat": 2}), 3)
    assert not few.whole_labels
    for label, held in (("shirt", 2), ("skirt", 1), ("hat", 1)):
        assert few.held[few.labels == label].sum() == held
    many = shop.read(some_photos(tmp_path / "many", {f"item{number}": 3 for number in range(20)}), 3)
    assert many.whole_labels
    assert {many.held[many.labels == label].mean() for label in set(many.labels)} == {0.0, 1.0}
    assert many.held.mean() == 0.25


def test_retrieval_counts_others_of_the_label_only():
    labels = np.array(["a", "a", "a", "b", "b"])
    photos = shop.Photos(Path(), [Path()] * 5, labels, np.array([True, False, False, True, False]), False)
    angles = np.array([0.0, 0.1, 2.0, 0.15, 2.1])
    figures = shop.retrieval(np.stack([np.cos(angles), np.sin(angles)], 1), photos)
    # Nearest to photo 0: 1 (a), 3 (b); it has two others of its label. Nearest to 3: 1 (a), 0 (a); it has one.
    assert figures == {"top1": 0.5, "top5": 1.0, "precision5": 0.25}


def test_crops_are_what_the_detector_found_with_a_margin(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (100, 200)).save(path)
    photos = shop.Photos(tmp_path, [path], np.array(["a"]), np.array([False]), False)

    class Detector:
        manifest = {"output": {"score_threshold": 0.3}}

        def __init__(self, found):
            self.found = found

        def detect(self, image, threshold):
            return self.found

    box = np.array([20.0, 40.0, 60.0, 140.0])
    assert shop.crops(photos, Detector([(0, 0.9, box)]))[0].size == (44, 110)
    assert shop.crops(photos, Detector([(0, 0.9, np.array([0.0, 0.0, 100.0, 200.0]))]))[0].size == (100, 200)
    assert shop.crops(photos, Detector([]))[0].size == (100, 200)
    assert shop.crops(photos, None)[0].size == (100, 200)
    path.write_bytes(b"no photo")
    with pytest.raises(SystemExit, match="photo.png: cannot be read"):
        shop.crops(photos, None)


def test_alterations_change_the_photo_and_repeat_themselves():
    photo = Image.open(CATALOGUE / "photos" / "beige-blazer-flat.jpg").convert("RGB").resize((120, 160))
    for name, alter in robustness.ALTERATIONS.items():
        made, again = (alter(photo, np.random.default_rng(5)) for _ in range(2))
        assert made is not None and made.tobytes() == again.tobytes(), name
        same_size = made.resize(photo.size)
        assert np.abs(np.asarray(same_size, float) - np.asarray(photo, float)).mean() > 0.5, name


def test_a_photo_is_prepared_as_its_manifest_says():
    photo = Image.new("RGB", (4, 8), (255, 51, 0))
    spec = {"width": 8, "height": 8, "filter": "bilinear", "resize": "letterbox", "pad": [0, 0, 255], "scale": 1 / 51, "mean": [1, 0, 0]}
    values, geometry = metrics.prepare(photo, spec)
    assert values.shape == (3, 8, 8) and geometry == (1, 1, 2, 0)
    assert values[:, 0, 2].tolist() == [4, 1, 0] and values[:, 0, 1].tolist() == [-1, 0, 5]
    values, _ = metrics.prepare(photo, spec | {"colour": "bgr"})  # mean and pad are in that order, too
    assert values[:, 0, 2].tolist() == [-1, 1, 5] and values[:, 0, 1].tolist() == [-1, 0, 5]
    assert metrics.prepare(photo, spec | {"resize": "stretch"})[1] == (2, 1, 0, 0)


def test_a_photo_is_ranked_by_how_many_are_nearer():
    gallery = metrics.normalized(np.array([[1.0, 0.0], [0.8, 0.2], [0.0, 1.0]]))
    altered = metrics.normalized(np.array([[0.9, 0.1], [0.1, 0.9]]))
    assert robustness.ranks(gallery, altered, np.array([0, 1])).tolist() == [0, 1]
    assert robustness.ranks(gallery, altered, np.array([1, 2])).tolist() == [1, 0]


def test_a_box_covers_by_overlap_and_label():
    truth = np.array([0.0, 0.0, 10.0, 10.0])
    found = [("upper", 0.9, np.array([0.0, 0.0, 10.0, 5.0])), ("lower", 0.8, truth)]
    assert failures.best_overlap(truth, found) == pytest.approx(1)
    assert failures.best_overlap(truth, found, "upper") == pytest.approx(0.5)
    assert failures.best_overlap(truth, found, "footwear") == 0 == failures.best_overlap(truth, [])


def test_photos_without_boxes_and_crowds_count_as_in_coco():
    box, beside = np.array([0.0, 0.0, 10.0, 10.0]), np.array([20.0, 0.0, 30.0, 10.0])
    none = {"boxes": np.zeros((0, 4)), "groups": np.zeros(0, int), "counts": np.zeros(0)}
    one = {"boxes": box[None], "groups": np.array([0])}
    found = [[(0, 0.8, box)], [(0, 0.9, box)]]
    assert metrics.average_precision(found, [one, none], 0) == pytest.approx(0.5)
    # What lies in a crowd of its class is neither right nor wrong, however often; what lies beside it is wrong.
    crowd = {"boxes": np.array([box, [15.0, 0.0, 100.0, 50.0]]), "groups": np.array([0, 0]), "counts": np.array([1, 0])}
    scores, hits, total = metrics.matches([[(0, 0.9, beside), (0, 0.8, box), (0, 0.7, beside + 20), (0, 0.6, beside + 200)]], [crowd], 0, 0.5)
    assert (scores.tolist(), hits.tolist(), total) == ([0.8, 0.6], [True, False], 1)
    scores, _, total = metrics.matches([[(1, 0.9, beside)]], [crowd], 1, 0.5)
    assert (scores.tolist(), total) == ([0.9], 0)


def test_a_sheet_shows_the_worst_first(tmp_path):
    photo = Image.new("RGB", (60, 80), "blue")
    box = ("upper", 0.9, np.array([5.0, 5.0, 50.0, 70.0]))
    cases = [(0.0, photo, [box], [box], "fine"), (1.0, photo, [box], [], "no upper"), (2.0, photo, [], [box], "upper 0.90")]
    assert failures.sheet(cases, tmp_path / "out" / "sheet.jpg", 2, 12) == 2
    width, height = failures.TILE
    assert Image.open(tmp_path / "out" / "sheet.jpg").size == (2 * width, height + failures.CAPTION)


def test_a_name_is_one_that_models_may_have():
    assert run_files.model_name("shop-2.embedder_x") == "shop-2.embedder_x"
    for wrong in ("Shop", "", "-shop", "garment-embedder", "garment-detector-float", "attention-texture", "x" * 64):
        with pytest.raises(argparse.ArgumentTypeError):
            run_files.model_name(wrong)


def test_a_run_goes_on_only_as_it_began(tmp_path):
    run_files.begin(tmp_path, {"photos": "a"})
    run_files.begin(tmp_path, {"photos": "b"})  # nothing was trained yet
    (tmp_path / "last.pt").write_bytes(b"")
    run_files.begin(tmp_path, {"photos": "b"})
    with pytest.raises(SystemExit, match="begun with other photos"):
        run_files.begin(tmp_path, {"photos": "a"})


def test_a_run_is_of_what_the_photos_show_wherever_they_lie(tmp_path, monkeypatch):
    def fingerprint(folder: Path) -> str:
        photos = shop.read(folder, 1)
        return run_files.fingerprint(photos.folder, zip(photos.paths, photos.labels.tolist()))

    folder = some_photos(tmp_path / "photos", {"shirt": 4, "skirt": 5})
    first = fingerprint(folder)
    monkeypatch.chdir(tmp_path)
    assert fingerprint(Path("photos")) == fingerprint(Path("./photos/../photos")) == first
    shutil.copytree(folder, tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == first
    Image.new("RGB", (8, 8), (0, 9, 0)).save(folder / "shirt" / "0.png")
    assert fingerprint(folder) != first
    (tmp_path / "moved" / "shirt" / "0.png").rename(tmp_path / "moved" / "skirt" / "9.png")
    assert fingerprint(tmp_path / "moved") != first


def test_all_photos_that_cannot_be_read_are_named_at_once(tmp_path):
    folder = some_photos(tmp_path / "photos", {"shirt": 4})
    paths = sorted(folder.rglob("*.png"))
    shop.check(paths)
    for number in (1, 3):
        paths[number].write_bytes(b"no photo")
    with pytest.raises(SystemExit, match=r"(?s)1.png: cannot be read.*3.png: cannot be read.*2 of 4 photos cannot be read"):
        shop.check(paths)


def test_a_folder_that_cannot_be_made_is_said_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    run_files.make_folder(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(SystemExit, match=f"--out {folder}: cannot be made"):
            run_files.make_folder(folder)


def test_a_worse_model_is_not_delivered_unless_asked_for(tmp_path, capsys):
    made = tmp_path / "run" / "export" / "mine.json"
    made.parent.mkdir(parents=True)
    made.write_text("{}")
    made.with_suffix(".onnx").write_bytes(b"onnx")
    parser = argparse.ArgumentParser()
    run_files.add_options(parser, "mine")
    before, worse = {"top1": 0.5, "precision5": 0.5}, {"top1": 0.9, "precision5": 0.4}
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="precision5 of the held-out photos fell"):
        run_files.deliver(made, parser.parse_args(["--out", str(out)]), before, worse, "precision5")
    assert not out.exists()
    run_files.deliver(made, parser.parse_args(["--out", str(out), "--anyway"]), before, worse, "precision5")
    assert (out / "mine.onnx").read_bytes() == b"onnx" and (out / "mine.json").read_text() == "{}"
    assert "top1          0.500    0.900" in capsys.readouterr().out
    # Both files of before stay where a new one finds no room.
    made.with_suffix(".onnx").write_bytes(bytes(LARGE))
    with full_disk(), pytest.raises(SystemExit, match=f"^{out}/mine.onnx: cannot be written"):
        run_files.deliver(made, parser.parse_args(["--out", str(out), "--anyway"]), before, worse, "precision5")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"mine.onnx": b"onnx", "mine.json": b"{}"}
