"""The base of every pydantic model here: a wrong word is an error, and what was read is not changed afterwards."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Unknown fields are refused; a field can not be set again."""

    model_config = ConfigDict(extra="forbid", frozen=True)
