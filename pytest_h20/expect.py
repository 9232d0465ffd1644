"""What is expected of a machine (``expect:`` in the inventory). Every field is optional."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Expect(BaseModel):
    """Expectations of one node, or of all. ``merged`` lays a node's own over the common ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def merged(self, own: Expect) -> Expect:
        """These expectations with every field that ``own`` sets explicitly taken from it."""
        return self.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
