"""What is known of a program before it runs. Imported outside and inside its process; imports no torch."""

import dataclasses
import typing

ALL = []

COPIES = "its weights and inputs"


@dataclasses.dataclass(frozen=True)
class Program:
    name: str
    run: typing.Callable
    # The oldest torch that has what the program uses.
    since: typing.Tuple[int, int]
    # Variables of its process.
    environment: typing.Dict[str, str]
    # Whether it can run without a GPU, as a test of itself (--device cpu).
    cpu: bool
    # Seconds that one run may take.
    seconds: int
    # What is compared on softcuda, where kernels do nothing.
    soft: str
    # Modules besides torch without which there is nothing to run.
    needs: typing.Tuple[str, ...]

    @property
    def title(self):
        return self.run.__doc__.strip()


def program(name, since=(2, 0), environment=None, cpu=True, seconds=90, soft=COPIES, needs=()):
    """Makes the decorated function a program of the check; it gets a `Check` (child.py). Its docstring is the title.

    The first step of a program must launch a kernel: the card is looked at during it.
    """

    def register(run):
        ALL.append(Program(name, run, since, environment or {}, cpu, seconds, soft, needs))
        return run

    return register
