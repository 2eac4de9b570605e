"""The data set's hash from the frames' hashes."""

import numpy as np
from ase import Atoms

from pwact_like.data.dataset import dataset_hash
from pwact_like.data.frames import Frame, Label
from pwact_like.data.hashes import combine_hashes, frame_hash


def test_combined_hashes_are_the_data_sets_hash():
    generator = np.random.default_rng(1)
    frames = [
        Frame(
            Atoms("Cu2", positions=generator.normal(size=(2, 3)), cell=[5, 5, 5], pbc=True), Label(float(n), generator.normal(size=(2, 3)))
        )
        for n in range(4)
    ]
    hashes = [frame_hash(frame) for frame in frames]
    assert combine_hashes(hashes) == dataset_hash(frames) == combine_hashes(reversed(hashes))
    assert combine_hashes(hashes[1:]) != combine_hashes(hashes)
