"""Facts that are read back from files: each kind has a schema, and an error names the field."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from adjointdpm.errors import CheckpointError

_SHOWN = 60  # characters of a value


class Facts(BaseModel):
    """Base class of schemas; a value is taken as it is, and not converted into what it should be.

    What a schema does not name is let through: a file may say more than its reader needs.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


Schema = TypeVar("Schema", bound=Facts)


def check_facts(schema: type[Schema], facts: Any) -> Schema:
    """The facts as the schema has them.

    Raises:
        CheckpointError: a field is missing or of another kind; the message begins with its name.

    """
    try:
        return schema.model_validate(facts)
    except ValidationError as error:
        raise CheckpointError(_first(error)) from error


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False)[0]
    name = ".".join(map(str, found["loc"])) or "what it holds"
    if found["type"] == "missing":
        return f"{name} is missing"
    shown = ascii(found["input"])
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}…"
    rule = found["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
    return f"{name} {rule}, not {shown}"
