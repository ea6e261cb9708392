"""PLY and .splat: the layout others expect, exact round trips, and hostile files."""

from __future__ import annotations

import re
import resource
import time

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from ltgs.core.gaussians import Gaussians
from ltgs.errors import FormatError, InputError
from ltgs.io.ply import read_ply, write_ply, write_points_ply
from ltgs.io.splat import read_splat, write_splat


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 20])
def test_ply_round_trip(tmp_path, gaussians, degree, n):
    g = gaussians(n, degree=degree)
    write_ply(tmp_path / "a.ply", g)
    back = read_ply(tmp_path / "a.ply")
    padded = g.with_sh_degree(3)
    for name in ("means", "log_scales", "opacity_logits", "sh"):
        assert torch.equal(getattr(back, name), getattr(padded, name)), name
    assert torch.allclose(back.quats, g.quats / g.quats.norm(dim=1, keepdim=True), atol=1e-6)


def test_ply_has_the_62_columns_as_another_reader_sees_them(tmp_path, gaussians):
    g = gaussians(11, degree=3)
    write_ply(tmp_path / "a.ply", g)
    vertex = PlyData.read(tmp_path / "a.ply")["vertex"]
    names = [p.name for p in vertex.properties]
    assert len(names) == 62 and names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9] == "f_rest_0"
    assert names[54:] == ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    # Channel-major: f_rest_0..14 are red, 15..29 green, 30..44 blue.
    for channel in range(3):
        assert np.array_equal(vertex[f"f_rest_{15 * channel + 2}"], g.sh[:, 3, channel].numpy())


def foreign(path, g: Gaussians, *, order: str = "<", degree: int = 1, kind: str = "f4", shuffle: int | None = None) -> None:
    """Write through plyfile, in another order and type, without normals, with an extra column."""
    columns = {c: g.means[:, i] for i, c in enumerate("xyz")} | {f"rot_{i}": g.quats[:, i] for i in range(4)}
    columns |= {f"scale_{i}": g.log_scales[:, i] for i in range(3)} | {"opacity": g.opacity_logits, "extra": g.means[:, 0]}
    columns |= {f"f_dc_{i}": g.sh[:, 0, i] for i in range(3)}
    rest = g.sh[:, 1:].transpose(1, 2).reshape(len(g), -1)
    columns |= {f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])}
    names = list(columns)
    np.random.default_rng(shuffle).shuffle(names)
    rows = np.zeros(len(g), dtype=[(c, order + kind) for c in names])
    for c in names:
        rows[c] = columns[c].numpy()
    PlyData([PlyElement.describe(rows, "vertex")], byte_order=order).write(path)


@pytest.mark.parametrize("options", [{}, {"order": ">"}, {"kind": "f8"}, {"shuffle": 7}])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_foreign_column_orders_and_types(tmp_path, gaussians, options, degree):
    g = gaussians(6, degree=degree)
    foreign(tmp_path / "f.ply", g, **options)
    back = read_ply(tmp_path / "f.ply")
    assert back.sh_degree == degree
    assert torch.equal(back.means, g.means) and torch.equal(back.sh, g.sh) and torch.equal(back.quats, g.quats)


def test_unusable_rows_are_dropped_and_counted(tmp_path, gaussians, caplog):
    g = gaussians(10)
    g.means[1, 0], g.sh[2, 1, 1], g.opacity_logits[3] = float("nan"), float("inf"), float("-inf")
    g.quats[4], g.log_scales[5, 2] = 0.0, 1e30
    foreign(tmp_path / "f.ply", g)
    assert len(read_ply(tmp_path / "f.ply")) == 5 and "dropped 5 of 10" in caplog.text


def header(count: str | int, columns: int = 0, extra: str = "") -> bytes:
    names = ["x", "y", "z", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(columns)), "opacity",
             *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [*(f"property float {n}" for n in names), extra]
    return "\n".join([x for x in lines if x] + ["end_header", ""]).encode()


@pytest.mark.parametrize("content", [
    b"", b"ply", b"ply\n", b"solid x", b"ply\nend_header\n", header(10) + b"\0" * 100, header(10**6), header(10**9),
    header(10**12), header(10**14), header("-1"), header("1e3"), header("9" * 400), header(1, 7),
    header(1, extra="property list uchar int l"),
    header(0).replace(b"binary_little_endian", b"ascii"), header(0).replace(b"float x", b"float y"),
    header(0).replace(b"float x", b"blob x"), header(0).replace(b"element vertex 0\n", b""),
    header(0).replace(b"f_dc_0", b"red"),
    b"ply\n" + b"comment x\n" * 20000 + b"end_header\n",
    header(0).replace(b"element vertex", b"element chunk 4\nelement vertex"),
    header(0).replace(b"vertex", b"vert\xff"), header(1, 9).replace(b"f_rest_8", b"f_rest_9") + b"\0" * 100,
])
def test_hostile_ply_is_refused_quickly(tmp_path, content):
    path = tmp_path / "h.ply"
    path.write_bytes(content)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(FormatError, match=r"h\.ply"):
        read_ply(path)
    assert time.perf_counter() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_fuzzed_ply_raises_only_typed_errors(tmp_path, gaussians):
    rng = np.random.default_rng(0)
    foreign(tmp_path / "a.ply", gaussians(8))
    sound = (tmp_path / "a.ply").read_bytes()
    end = sound.index(b"end_header")
    path, refused = tmp_path / "fuzz.ply", 0
    for i in range(600):
        data = bytearray(sound)
        if i % 3 == 2:
            data = data[: int(rng.integers(len(data)))]
        region = end if i % 3 == 0 else len(data)
        for at in rng.integers(0, max(region, 1), int(rng.integers(1, 6))):
            if at < len(data):
                data[at] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            g = read_ply(path)
            assert all(torch.isfinite(t).all() for t in g.tensors().values())
        except FormatError:
            refused += 1
    assert refused > 200


def test_missing_ply_and_unwritable_folder(tmp_path, gaussians):
    with pytest.raises(InputError, match=r"none\.ply"):
        read_ply(tmp_path / "none.ply")
    with pytest.raises(InputError, match="Could not write"):
        write_ply(tmp_path / "no" / "a.ply", gaussians(2))
    assert not list(tmp_path.iterdir())


def test_points_ply(tmp_path):
    xyz, rgb = np.random.default_rng(0).normal(size=(5, 3)), np.arange(15, dtype=np.uint8).reshape(5, 3)
    write_points_ply(tmp_path / "p.ply", xyz, rgb)
    vertex = PlyData.read(tmp_path / "p.ply")["vertex"]
    assert np.array_equal(vertex["x"], xyz[:, 0].astype(np.float32)) and vertex["blue"].tolist() == rgb[:, 2].tolist()
    with pytest.raises(ValueError, match="uint8"):
        write_points_ply(tmp_path / "p.ply", xyz, rgb.astype(float))


def test_splat_round_trip_and_order(tmp_path, gaussians):
    g = gaussians(40, degree=2)
    write_splat(tmp_path / "a.splat", g)
    assert (tmp_path / "a.splat").stat().st_size == 40 * 32
    back = read_splat(tmp_path / "a.splat")
    volume = back.scales.prod(1) * back.opacities
    # Opacity is quantised to 8 bits, so neighbours may swap by that much.
    assert (volume[:-1] * 1.05 + 1e-6 >= volume[1:]).all()
    for i in range(40):
        j = int((g.means - back.means[i]).norm(dim=1).argmin())
        assert torch.equal(back.means[i], g.means[j]) and torch.allclose(back.log_scales[i], g.log_scales[j], atol=1e-5)
        assert torch.allclose(back.base_rgb[i], g.base_rgb[j].clamp(0, 1), atol=0.5 / 255 + 1e-6)
        assert torch.allclose(back.opacities[i], g.opacities[j], atol=1 / 255)
        # 8 bits over [-1, 1]: half a step of 1/128, and a full one at +1, which 255 cannot reach.
        assert torch.allclose(back.quats[i], g.quats[j] / g.quats[j].norm(), atol=1 / 128)


def test_splat_refuses_bad_files(tmp_path):
    for content in (b"x" * 33, b"\xff" * 32, b"\0" * 32):
        (tmp_path / "b.splat").write_bytes(content)
        with pytest.raises(FormatError, match=re.escape("b.splat")):
            read_splat(tmp_path / "b.splat")
