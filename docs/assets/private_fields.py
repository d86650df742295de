"""Signatures in the reference without what results keep for themselves."""

import griffe


class PrivateFields(griffe.Extension):
    """Take private attributes of classes for no fields: signatures of dataclasses then leave them out."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: object) -> None:
        """Forget the type of a private attribute, without which it is no field."""
        if attr.name.startswith("_") and attr.parent and attr.parent.is_class:
            attr.annotation = None
