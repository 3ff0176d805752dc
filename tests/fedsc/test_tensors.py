import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsc import tensors
from fedsc.files import replace

_DTYPES = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "|u1", "|b1", "<f2"]).map(np.dtype)
_ARRAYS = _DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_dims=3))
)


@given(st.dictionaries(st.text(max_size=8).filter(lambda n: n != "__metadata__"), _ARRAYS))
def test_what_is_packed_is_unpacked_to_the_bit(arrays):
    packed = tensors.pack(arrays)
    again = tensors.unpack(packed)
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (again[name].dtype, again[name].shape) == (array.dtype, array.shape)
        assert again[name].tobytes() == array.tobytes()
        assert again[name].flags.writeable
    assert tensors.pack(again) == packed
    assert packed == safetensors.numpy.save(arrays)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[::-1],
        lambda a: a[:, ::2],
        lambda a: a[1],
        lambda a: np.broadcast_to(a[0], (5, 4)),
        lambda a: np.asfortranarray(a),
        lambda a: a.sum(),
    ],
)
def test_the_memory_layout_does_not_matter(view):
    array = view(np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(tensors.unpack(tensors.pack({"a": array}))["a"], array)


def test_a_file_gives_tensors_and_what_was_kept_with_them(tmp_path):
    about = {"round": 3, "of": ["a", "b"], "α": 0.7}
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensors.pack({"b": np.ones(2), "a": np.zeros(3)}, about))
    arrays, told = tensors.read(path)
    assert told == about
    assert arrays["b"].tolist() == [1, 1]

    path.write_bytes(tensors.pack({"a": np.zeros(3)}))
    assert tensors.read(path)[1] == {}


def test_about_in_another_order_gives_the_same_bytes():
    array = {"a": np.ones(2)}
    assert tensors.pack(array, {"x": 1, "y": 2}) == tensors.pack(array, {"y": 2, "x": 1})


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\xff" * 8 + b]
)
def test_damaged_bytes_are_a_value_error(damage, tmp_path):
    content = damage(tensors.pack({"a": np.ones(5)}))
    with pytest.raises(ValueError, match=r".+"):
        tensors.unpack(content)
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r".+"):
        tensors.read(path)


def test_a_file_that_is_not_there_says_which(tmp_path):
    with pytest.raises(FileNotFoundError):
        tensors.read(tmp_path / "none.safetensors")


@pytest.mark.parametrize("pack", [tensors.pack, lambda *g: b"".join(tensors.pack_in_parts(*g))])
def test_any_flipped_bit_of_a_file_with_a_digest_is_found(tmp_path, pack):
    path, rng = tmp_path / "x.safetensors", np.random.default_rng(0)
    arrays = {
        "b": rng.normal(size=(3, 5)).astype(np.float32),
        "a": np.arange(4),
        "none": np.ones(0),
    }
    whole = pack(arrays, {"round": 3, "λ": {"lab": 0.25}})
    for bit in rng.choice(8 * len(whole), size=500, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            about = tensors.read(path)[1]
        except ValueError:
            continue
        assert about == {}, f"bit {bit}"  # the name of the record was hit: there is none


@pytest.mark.parametrize("text", ["[1]", "3", "[" * 100_000])
def test_what_is_no_record_is_refused_though_its_digest_is_right(tmp_path, text):
    path, arrays = tmp_path / "x.safetensors", {"a": np.ones(2)}
    digest = tensors._sha256(tensors._content(arrays, text))
    path.write_bytes(safetensors.numpy.save(arrays, {"fedsc": f"{digest} {text}"}))
    with pytest.raises(ValueError, match="kept with the tensors"):
        tensors.read(path)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.lists(st.integers(0, 5), max_size=3),
        max_size=6,
    )
)
def test_the_packed_size_is_an_upper_bound_and_near(shapes):
    some = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    size = len(tensors.pack(some))
    assert size <= tensors.packed_size(some) <= size + 64 + 310 * len(some)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.sampled_from(["<f4", "<f8", "<i4", "|b1", ">f8"])
        .map(np.dtype)
        .flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_side=0, max_dims=2))),
        max_size=4,
    )
)
def test_as_unpacked_is_pack_and_unpack(some):
    some |= {f"{name}ᵀ": array.T for name, array in some.items()}  # of another memory layout
    packed = tensors.pack(some)
    there, (here, size) = tensors.unpack(packed), tensors.as_unpacked(some)
    assert size == len(packed)
    assert here.keys() == there.keys()
    for name, array in here.items():
        assert (array.dtype, array.shape) == (there[name].dtype, there[name].shape)
        assert array.flags.c_contiguous
        assert array.tobytes() == there[name].tobytes()
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


_MAPPED = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "|b1"]).map(np.dtype)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda n: n != "__metadata__"),
        _MAPPED.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_side=0, max_dims=2))),
        max_size=4,
    )
)
def test_what_is_packed_in_parts_is_read_and_mapped(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("written") / "file.safetensors"
    about = {"key": "some", "number": 1.5}
    replace(path, *tensors.pack_in_parts(arrays, about))
    for found, told in (tensors.read(path), tensors.mapped(path)):
        assert told == about
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes()


def test_a_mapped_file_is_held_against_its_digest(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(tensors.pack({"x": np.arange(9.0)}, {}))
    tensors.mapped(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="digest"):
        tensors.mapped(path)
    path.write_bytes(content[:-8])
    with pytest.raises(ValueError, match=r"."):
        tensors.mapped(path)


def test_tensors_of_several_owners_are_told_apart():
    owners = {"a": {"x": np.ones(1), "y/z": np.zeros(2)}, "b": {"x": np.ones(3)}}
    assert tensors.by_owner(tensors.joined(owners)) == owners
    assert list(tensors.by_owner({"x": owners["a"]["x"]})) == [""]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(odd):
    large = np.full(4, 3e38, dtype=np.float32)  # their sum is infinite
    assert tensors.not_finite({"a": large, "n": np.array(3), "none": np.ones(0)}) == ""
    assert tensors.not_finite({"a": large, "b": np.array([1.0, odd])}) == "b"
