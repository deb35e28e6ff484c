"""Benches made of image files: the pixels of torchvision's own loaders, the same draws every time, and clear
errors.
"""

import hashlib
import io
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from helpers import images
from PIL import Image
from torch import nn

from qlib import QuantConfig, evaluate, load_bench, quantize
from qlib.benches import cifar10, data_hash, imagenet, pretrained
from qlib.benches import images as files
from qlib.cli import main

SMALL = files.Preprocess(resize=20, crop=16)


def tiny_network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QLIB_CACHE", str(tmp_path / "cache"))
    for variable in ("QLIB_IMAGENET", "QLIB_CIFAR10", "QLIB_CIFAR10_JPEG"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path):
    """Three classes of 6 training and 4 validation images, of different sizes and modes."""
    random = np.random.default_rng(0)
    root = tmp_path / "data"
    for part, n in (("train", 6), ("val", 4)):
        for label, name in enumerate(("ant", "bee", "cow")):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                shape = (24 + 3 * i, 40 - 2 * label) if i == 1 else (24 + 3 * i, 40 - 2 * label, 3)
                picture = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
                picture.save(root / part / name / f"{i}.jpg", quality=95)
    return root


@pytest.fixture
def bench(data):
    return files.folders("tiny", data, SMALL, pretrained.Networks({"base": tiny_network}), batch=5)


def all_of(batches):
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def test_batches_are_what_torchvision_gives(bench, data):
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    prepare = transforms.Compose(
        [
            transforms.Resize(20),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize(SMALL.mean, SMALL.std),
        ]
    )
    folder = ImageFolder(data / "val", prepare)
    x, y = all_of(bench.validation(12))
    expected = [folder[i] for i in bench._drawn(folder, 12, 0)]
    assert torch.equal(x, torch.stack([e[0] for e in expected])) and y.tolist() == [e[1] for e in expected]
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and len(bench.validation(12)) == 3


def test_imagenet_preprocessing_is_that_of_the_weights():
    from torchvision.models import ResNet50_Weights

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 411, 3), dtype=np.uint8))
    pixels = torch.from_numpy(files.IMAGENET.pixels(picture))
    expected = ResNet50_Weights.IMAGENET1K_V1.transforms()(picture)
    assert torch.allclose(files.IMAGENET.normalized(pixels[None])[0], expected, atol=1e-6)


def test_validation_is_always_the_first_n_and_mixes_classes(bench):
    few = all_of(bench.validation(4))
    many = all_of(bench.validation(12))
    assert torch.equal(few[0], many[0][:4]) and sorted(many[1].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert many[1].tolist() != sorted(many[1].tolist())


def test_draws_follow_from_the_seed_without_repetition(bench):
    first, again, other = (all_of(bench.calibration(18, seed)) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert len(first[0].flatten(1).unique(dim=0)) == 18
    assert torch.equal(all_of(bench.training(18, 1))[0], other[0])
    with pytest.raises(ValueError, match="18 such images; 19 are asked for"):
        bench.calibration(19)


def test_a_bench_streams_and_can_be_read_again(bench):
    batches = bench.validation(12)
    assert isinstance(batches.pixels, np.memmap)
    network = bench.models["base"]
    once = evaluate(quantize(network, QuantConfig(), bench.calibration(10)), batches)
    assert (
        evaluate(quantize(network, QuantConfig(), bench.calibration(10)), batches).correct == once.correct
    ).all()


def test_decoded_pixels_are_kept_until_a_file_changes(bench, data, cache, monkeypatch):
    before = bench.validation(12)
    decode = files.Folder._decoded
    monkeypatch.setattr(files.Folder, "_decoded", lambda *_: pytest.fail("decoded again"))
    assert data_hash(bench.validation(12)) == data_hash(before)
    monkeypatch.setattr(files.Folder, "_decoded", decode)
    Image.new("RGB", (30, 30)).save(data / "val" / "bee" / "0.jpg")
    assert data_hash(bench.validation(12)) != data_hash(before)
    assert not [p for p in cache.iterdir() if p.name.startswith(".")]


def test_the_hash_does_not_depend_on_where_images_lie_or_how_they_are_batched(bench, data, tmp_path):
    data.rename(tmp_path / "elsewhere")
    moved = files.folders("moved", tmp_path / "elsewhere", SMALL, {}, batch=3)
    assert data_hash(moved.validation(12)) == data_hash(
        files.folders("x", tmp_path / "elsewhere", SMALL, {}, 7).validation(12)
    )
    darker = files.folders(
        "darker", tmp_path / "elsewhere", files.Preprocess((0.5, 0.5, 0.5), SMALL.std, 20, 16), {}, batch=3
    )
    assert data_hash(darker.validation(12)) != data_hash(moved.validation(12))


def test_a_corrupt_image_is_named_and_nothing_half_decoded_stays(bench, data, cache):
    (data / "val" / "cow" / "2.jpg").write_bytes((data / "val" / "cow" / "2.jpg").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"2\.jpg cannot be read as an image"):
        bench.validation(12)
    assert not [p for p in cache.iterdir() if "pixels" in p.name]


def test_images_of_different_sizes_need_a_crop(data):
    with pytest.raises(ValueError, match="after preprocessing"):
        files.folders("raw", data, files.Preprocess(), {}, 5).validation(12)


def test_a_full_disk_leaves_nothing_half_written(bench, cache, monkeypatch):
    monkeypatch.setattr(
        os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        bench.validation(12)
    assert not list(cache.glob("*.npy")) and not list(cache.glob(".*"))


def test_a_missing_class_a_missing_part_and_an_empty_class_are_refused(data):
    def load():
        return files.folders("tiny", data, SMALL, {}, 5)

    (data / "val" / "bee").rename(data / "bee")
    with pytest.raises(ValueError, match="only one of them has bee"):
        load()
    (data / "val" / "bee").mkdir()
    with pytest.raises(FileNotFoundError, match="bee"):
        load()
    (data / "val").rename(data / "elsewhere")
    with pytest.raises(FileNotFoundError, match="no folders train/ and val/"):
        load()


def test_labels_that_the_network_has_no_class_for_are_refused():
    with pytest.raises(ValueError, match="labels run from 1 to 3, but the network tells 3 classes apart"):
        evaluate(tiny_network(), [(images(2, 3, 16), torch.tensor([1, 3]))])
    with pytest.raises(ValueError, match="labels run from -1"):
        evaluate(tiny_network(), [(images(2, 3, 16), torch.tensor([-1, 2]))])


@pytest.mark.parametrize(
    "name, variable", [("imagenet", "QLIB_IMAGENET"), ("cifar10-jpeg", "QLIB_CIFAR10_JPEG")]
)
def test_a_bench_whose_folder_is_not_named_says_what_to_set(name, variable):
    with pytest.raises(ValueError, match=f"set {variable}"):
        load_bench(name)


# Weights


def save(network, path):
    from safetensors.torch import save_file

    save_file(network.state_dict(), path) if path.suffix == ".safetensors" else torch.save(
        network.state_dict(), path
    )
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_read_and_those_of_another_network_refused(tmp_path, suffix):
    network = tiny_network()
    path = save(network, tmp_path / f"net{suffix}")
    assert torch.equal(pretrained.load_weights(tiny_network(), path)[0].weight, network[0].weight)
    with pytest.raises(ValueError, match="does not hold weights for this Sequential") as error:
        pretrained.load_weights(nn.Sequential(nn.Linear(3, 4)), path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_weights_file_is_refused(tmp_path, suffix):
    path = save(tiny_network(), tmp_path / f"net{suffix}")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="does not hold weights"):
        pretrained.load_weights(tiny_network(), path)


def test_nothing_is_executed_from_a_weights_file(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    torch.save({"0.weight": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ValueError, match="does not hold weights"):
            pretrained.load_weights(tiny_network(), tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_factory_is_named_by_package_or_file(tmp_path):
    assert pretrained.factory("torchvision.models:resnet18").__name__ == "resnet18"
    (tmp_path / "mine.py").write_text("def net():\n    return 42\n")
    assert pretrained.factory(f"{tmp_path / 'mine.py'}:net")() == 42
    for wrong in (
        "no.such.module:net",
        "torchvision.models:resnet19",
        "resnet18",
        f"{tmp_path}/absent.py:net",
    ):
        with pytest.raises(ValueError, match="no network factory"):
            pretrained.factory(wrong)


# Downloads, from files instead of the net


def address(path):
    return path.as_uri()


def test_a_download_is_verified_and_kept(tmp_path, cache, capsys):
    source = tmp_path / "weights.bin"
    source.write_bytes(b"weights" * 100)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    path = pretrained.fetch(address(source), "weights.bin", "sha256", digest[:8])
    assert path == cache / "weights.bin" and path.read_bytes() == source.read_bytes()
    source.unlink()
    assert pretrained.fetch(address(source), "weights.bin", "sha256", digest) == path  # from the cache
    path.write_bytes(b"tampered")
    with pytest.raises(OSError, match="damaged or was changed"):
        pretrained.fetch(address(source), "weights.bin", "sha256", digest)


def test_a_zipped_download_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pth.zip", "w") as archive:
        archive.writestr("net.pth", b"content")
    digest = hashlib.sha1(b"content").hexdigest()
    assert (
        pretrained.fetch(address(tmp_path / "net.pth.zip"), "net.pth", "sha1", digest).read_bytes()
        == b"content"
    )


@pytest.mark.parametrize("content", [None, b"truncated"], ids=["no network", "truncated"])
@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_a_failed_download_says_so_in_one_line_and_leaves_nothing(tmp_path, cache, content, suffix):
    source = tmp_path / f"w.pth{suffix}"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(OSError, match="cannot download") as error:
        pretrained.fetch(address(source), "w.pth", "sha256", "0123abcd")
    assert "\n" not in str(error.value) and str(cache / "w.pth") in str(error.value)
    assert list(cache.iterdir()) == []


def test_cifar10_is_read_from_its_binary_version(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            record = np.concatenate(
                [random.integers(0, 10, (4, 1)), random.integers(0, 256, (4, 3072))], 1
            ).astype(np.uint8)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = record.size
            tar.addfile(member, io.BytesIO(record.tobytes()))
    monkeypatch.setattr(cifar10, "URL", address(archive))
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    bench = load_bench("cifar10")
    assert len(bench.train) == 20 and len(bench.held_out) == 4 and set(bench.models) == {"base", "deeper"}
    x, y = all_of(bench.validation(4))
    order = bench._drawn(bench.held_out, 4, 0)
    pixels = torch.from_numpy(record[order, 1:].reshape(4, 3, 32, 32)).float()
    mean, std = (torch.tensor(v)[:, None, None] for v in (cifar10.PREPROCESS.mean, cifar10.PREPROCESS.std))
    assert torch.allclose(x * std + mean, pixels / 255, atol=1e-6) and y.tolist() == record[order, 0].tolist()


def test_the_published_networks_have_names_and_hashes(monkeypatch):
    asked = []

    def stop(url, name, algorithm, digest):
        asked.append((url, name, algorithm, digest))
        raise OSError("stop")

    monkeypatch.setattr(imagenet, "fetch", stop)
    for make in (
        imagenet.torchvision_resnet50,
        *(
            lambda n=n: imagenet.pytorchcv_network(n)
            for n in ("resnet50", "resnet50b", "resnet20_cifar10", "resnet56_cifar10")
        ),
    ):
        with pytest.raises(OSError, match="stop"):
            make()
    assert asked[0][1:] == ("resnet50-0676ba61.pth", "sha256", "0676ba61")
    assert all(url.startswith("https://") for url, *_ in asked)
    assert all(len(digest) == 40 and name.endswith(f"-{digest[:8]}.pth") for _, name, _, digest in asked[1:])


def test_the_pair_for_imagenet_shares_its_graph():
    from pytorchcv.model_provider import get_model
    from torchvision.models import resnet50

    def layers(network):
        found = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        return sorted(
            (tuple(m.weight.shape), getattr(m, "stride", None)) for m in found if isinstance(m, nn.Conv2d)
        )

    assert layers(resnet50()) == layers(get_model("resnet50b")) != layers(get_model("resnet50"))


# End to end


def test_imagenet_runs_end_to_end_on_a_folder_of_a_few_dozen_images(tmp_path, monkeypatch, capsys):
    imagenet.generate(tmp_path / "folder", {"train": 16, "val": 32})
    monkeypatch.setenv("QLIB_IMAGENET", str(tmp_path / "folder"))
    with pytest.raises(ValueError, match="16 classes, not ImageNet's 1,000"):
        load_bench("imagenet")
    for part in ("train", "val"):
        for i in range(1000 - 16):
            (tmp_path / "folder" / part / f"more{i:03}").mkdir()
            shutil.copy(
                tmp_path / "folder" / part / "00" / "00000.jpg", tmp_path / "folder" / part / f"more{i:03}"
            )
    weights = imagenet.random_resnet50(torch.randn(4, 3, 224, 224)).state_dict()
    torch.save(weights, tmp_path / "resnet50-0676ba61.pth")
    digest = hashlib.sha256((tmp_path / "resnet50-0676ba61.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(
        imagenet,
        "fetch",
        lambda url, name, *_: pretrained.fetch(address(tmp_path / name), name, "sha256", digest),
    )
    (tmp_path / "book" / "experiments" / "imagenet").mkdir(parents=True)
    (tmp_path / "book" / "experiments" / "imagenet" / "small.yaml").write_text(
        "bench: imagenet\nimages: 20\ncalibration_images: [4]\nvary:\n- activation_bits: [8]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["record", "imagenet/small"]) == 0
    assert "2 rows" in capsys.readouterr().out


def test_generated_images_are_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        imagenet.generate(tmp_path / name, {"train": 16, "val": 16})
    a, b = (sorted((tmp_path / name).rglob("*.jpg")) for name in ("a", "b"))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b] and len(a) == 32


def test_cifar10_jpeg_is_the_folder_beside_the_repository(data_folder, monkeypatch):
    monkeypatch.setenv("QLIB_CIFAR10_JPEG", str(data_folder))
    bench = load_bench("cifar10-jpeg")
    assert 70 < evaluate(bench.models["base"], bench.validation(500)).top1 < 90
    assert len(bench.held_out) == 5000 and bench.train.classes == cifar10.CLASSES


def test_a_factory_must_be_a_function_and_a_checkpoint_may_wrap_its_weights(tmp_path):
    (tmp_path / "mine.py").write_text("import torch\nmodel = torch.nn.Linear(2, 2)\n")
    with pytest.raises(ValueError, match="is a Linear, not a function that makes a network"):
        pretrained.factory(f"{tmp_path / 'mine.py'}:model")
    network = torch.nn.Linear(2, 2)
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    loaded = pretrained.load_weights(torch.nn.Linear(2, 2), tmp_path / "checkpoint.pth")
    assert torch.equal(loaded.weight, network.weight)
