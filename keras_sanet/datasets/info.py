"""What is known of a public data set, in one table each."""

import colorsys
import dataclasses


@dataclasses.dataclass(frozen=True, repr=False)
class Info:
    """Facts of a data set.

    Attributes:
        name: what `datasets.load` calls it.
        title: what its authors call it.
        classes: dict from the name of a class to its (red, green, blue), in order of the class ids.
        counts: dict from a split to its official number of images; empty if there is none.
        files: the files that are looked for, a form a string.
        license: the terms in a few words.
        citation: of the paper.
        url: where to get it.
    """

    name: str
    title: str
    classes: dict
    counts: dict
    files: tuple
    license: str
    citation: str
    url: str

    def __repr__(self):
        return f"<Info of {self.name!r}: {self.title}, {len(self.classes)} classes>"

    @property
    def way_out(self):
        """Sentence that ends an error of files that are not as they were published."""
        return f"Get {self.title} from {self.url}."

    def not_found(self, root):
        """The error of a folder that does not hold the set."""
        forms = "; or ".join(self.files)
        return FileNotFoundError(
            f"{root} holds no {self.title}. Looked for: {forms}. {self.way_out}"
        )


def color(index):
    """The (red, green, blue) that PASCAL VOC gives an id, distinct for 0..255: the bits of the id
    go to the highest bits of red, green and blue in turn. 0 is black."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << 7 - bit // 3
    return tuple(channels)


def colors(names, start=1):
    """Dict from the name of a class to its VOC color; the first class has that of `start`."""
    return {name: color(index) for index, name in enumerate(names, start=start)}


def distinct_color(index):
    """A color apart from its neighbors': the hue turns by the golden section."""
    hue, value = index * 0.618 % 1, (0.95, 0.7, 0.5)[index % 3]
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, value))
