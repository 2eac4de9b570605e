"""What trainers of other programs share: their data are merged in the job, and their results judged in one form."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from pwact_like.engines.protocols import Trainer, TrainReport
from pwact_like.engines.trainers.data_files import DATA_JSON, LEARNING_CURVE, TEST, check_curve, check_test
from pwact_like.errors import DataError
from pwact_like.fsio import read_json
from pwact_like.outcome import Ok, Outcome, Reject

LOG = "train.log"


class ExternalTrainer(Trainer):
    """Leaves ``model_file``, lcurve.csv and, with test data, test.json; the program's own words are in train.log."""

    beside: ClassVar[tuple[str, ...]] = ()  # what must lie beside the model file

    @abstractmethod
    def check_model(self, folder: Path) -> None:
        """Insist that the model file and what lies beside it are whole.

        Raises
        ------
        DataError
            Naming the file and what is wrong.
        """

    def outcome(self, folder: Path) -> Outcome:
        """Ok for a whole model, a learning curve that ends in finite numbers, and the test set's errors where one was given."""
        try:
            wants_test = "test" in read_json(folder / DATA_JSON)
            names = [self.model_file, *self.beside, LEARNING_CURVE, *([TEST] if wants_test else [])]
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                return Reject(f"{', '.join(missing)} missing in {folder}; see {LOG} and stderr there")
            self.check_model(folder)
            check_curve(folder / LEARNING_CURVE)
            if wants_test:
                check_test(read_json(folder / TEST), folder / TEST)
        except DataError as error:
            return Reject(str(error))
        return Ok()

    def read(self, folder: Path) -> TrainReport:
        """Model, learning curve, errors on the test set."""
        if not (folder / self.model_file).is_file():
            raise DataError(f"{folder / self.model_file} is missing; was the folder cleaned?")
        curve, test = folder / LEARNING_CURVE, folder / TEST
        return TrainReport(folder / self.model_file, curve if curve.is_file() else None, read_json(test) if test.is_file() else None)
