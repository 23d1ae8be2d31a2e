"""Prompts that a command is given: a file with one a line, or a list from `--config`."""

from dataclasses import dataclass
from typing import Any

from adjointdpm.errors import PromptError
from adjointdpm.support.text_files import read_lines


@dataclass(frozen=True)
class PromptSource:
    """What a flag that takes prompts was given; only `read` looks into it.

    Args:
        given: the path of a file, or from `--config` also the prompts themselves.

    """

    given: Any

    def read(self, flag: str = "--prompts") -> list[str]:
        """The lines of the file that are neither blank nor comments (#), or the list as it is.

        Raises:
            PromptError: no such file, no text, or no prompts in it; or a list of something else
                than prompts.

        """
        if isinstance(self.given, list):
            if not self.given or not all(
                isinstance(prompt, str) and prompt.strip() for prompt in self.given
            ):
                raise PromptError(
                    f"{flag} from --config must be a list of at least one prompt, none of them "
                    f"blank, not {self.given!r}"
                )
            return list(self.given)
        lines = read_lines(str(self.given), flag, PromptError)
        prompts = [line for line in lines if line and not line.startswith("#")]
        if not prompts:
            raise PromptError(f"{flag} {self.given} holds no prompts; write one a line")
        return prompts
