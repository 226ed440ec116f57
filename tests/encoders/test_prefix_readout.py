"""User vectors of all prefixes of a row: each is what the readout gives for that prefix alone."""

import pytest
import torch

from peterrec.encoders.prefix_readout import PREFIX_READOUTS, prefix_pooled
from peterrec.encoders.readout import READOUTS, Readout


@pytest.mark.parametrize("kind", PREFIX_READOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layers", [(-1,), (0, 2)])
def test_each_prefix_is_read_as_if_it_were_the_row(kind, dtype, layers):
    generator = torch.Generator().manual_seed(1)
    states = [torch.randn(3, 9, 4, generator=generator).to(dtype) for _ in layers]
    reader = Readout(kind, channels=4, depth=2, layers=layers)
    found = prefix_pooled(reader, states)
    assert found.shape == (3, 9, len(layers), 4)
    for length in range(1, 10):
        valid = torch.arange(9) < length
        expected = reader.pooled(states, valid.expand(3, 9))
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found[:, length - 1], expected)


def test_readouts_that_cannot_be_shared_are_refused():
    assert set(READOUTS) - set(PREFIX_READOUTS) == {"tcl", "tcl_ends", "attention"}
    with pytest.raises(AssertionError, match="attention"):
        prefix_pooled(Readout("attention", channels=4, depth=1), [torch.zeros(1, 2, 4)])
