"""What is known of a public data set, in one table each."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Info:
    """Facts of a data set.

    Attributes:
        name: what `datasets.load` calls it.
        title: what its authors call it.
        classes: dict from the name of a class to its (red, green, blue), in order of the class ids.
        counts: dict from a split to its official number of images; empty if there is none.
        files: the files that are looked for, a form a string.
        licence: the terms in a few words. citation: of the paper. url: where to get it.
    """

    name: str
    title: str
    classes: dict
    counts: dict
    files: tuple
    licence: str
    citation: str
    url: str

    def not_found(self, root):
        """The error of a folder that does not hold the set."""
        forms = "; or ".join(self.files)
        return FileNotFoundError(
            f"{root} holds no {self.title}. Looked for: {forms}. Get it from {self.url}."
        )
