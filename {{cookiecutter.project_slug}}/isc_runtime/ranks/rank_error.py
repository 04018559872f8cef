"""An error of one rank, as all ranks know it."""

from __future__ import annotations

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError


class RankError(IscError):
    """An error of one rank, as all ranks know it.

    Attributes:
        rank: where it happened.
        hostname: the machine of that rank.
        node_rank: the node of that rank.
    """

    def __init__(
        self,
        what: str,
        where: object,
        hint: str,
        exit_code: ExitCode,
        rank: int,
        hostname: str,
        node_rank: int,
    ) -> None:
        super().__init__(what, where, hint, exit_code)
        self.args = (what, str(where), hint, exit_code, rank, hostname, node_rank)
        self.rank = rank
        self.hostname = hostname
        self.node_rank = node_rank

    @classmethod
    def of(cls, error: BaseException, environment: Environment) -> RankError:
        """`error`, with the rank it happened on."""
        if isinstance(error, cls):
            return error
        if isinstance(error, IscError):
            what, where, hint, exit_code = error.what, error.where, error.hint, error.exit_code
        elif isinstance(error, OSError) and error.strerror:
            where = error.filename2 or error.filename or ""  # of a link or a rename: the new name
            what, hint, exit_code = error.strerror, "", ExitCode.UNFIT
        else:
            what, where, hint, exit_code = f"{type(error).__name__}: {error}", "", "", ExitCode.FAILED
        result = cls(
            what, where, hint, exit_code, environment.rank, environment.hostname, environment.node_rank
        )
        result.__cause__ = error
        return result

    def is_reported_by(self, environment: Environment) -> bool:
        """Whether that process prints it: the one that failed, and one on each other node, for its log."""
        return environment.rank == self.rank or (
            environment.node_rank != self.node_rank and environment.local_rank == 0
        )

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.hostname}: {super().__str__()}"
