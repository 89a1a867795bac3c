"""Recipes: the arguments of `keras-sanet train`, by name.

"paper": Yu et al. (2020), section IV-C. AdamW at 1e-5, poly decay, flip, scale and contrast; all
data sets keep the best cross-entropy, ADE20K and Cityscapes go on with Lovász-softmax. Section IV-B
says the batch of 8 and, by its pooling windows of 60 cells, the crop of 473 (of Table II too);
ImageNet weights are in section IV-B's pre-trained stem. Silent, and chosen here: how many epochs
(NYU Depth v2's 80 are Figure 3's, SUN RGB-D's as many, the others' semseg's, and a fifth of them
with Lovász-softmax, at a tenth of the rate), weight decay (PyTorch's default), power 0.9 (that of
DeepLab, to which the paper refers), ranges of scale and contrast. NYU Depth v2 and SUN RGB-D have
no validation split: the paper chooses on "the validation (test) set" itself.

"semseg": PSPNet of github.com/hszhao/semseg, `config/DATASET/DATASET_pspnet50.yaml` with
`tool/train.py`, as a control. Other than there: no auxiliary loss (there 0.4 of a head on stage 3),
the plain stem of ResNet-50 (there three 3x3 convolutions), padding 0 (there ImageNet's mean), each
picture rotated and blurred (there half of them, with a blur of 1.1 pixels), resizing by half-pixel
centres, and the best checkpoint (there the last). Batch norms are to be synchronised over devices.
"""

_SHARED = {"weights": "imagenet", "scale_range": (0.5, 2.0)}
_FAMILIES = {
    "paper": {
        **_SHARED, "model": "sanet", "backbone": "resnext50", "batch_size": 8,
        "optimizer": "adamw", "learning_rate": 1e-5, "weight_decay": 0.01,
        "head_learning_rate_multiple": 1.0, "contrast_range": (0.75, 1.5),
        "rotation_range": (0.0, 0.0), "blur_range": (0.0, 0.0),
    },
    "semseg": {
        **_SHARED, "model": "pspnet", "backbone": "resnet50", "batch_size": 16,
        "optimizer": "sgd", "learning_rate": 1e-2, "weight_decay": 1e-4,
        "head_learning_rate_multiple": 10.0, "contrast_range": (1.0, 1.0),
        "rotation_range": (-10.0, 10.0), "blur_range": (0.0, 1.1),
    },
}  # fmt: skip

#    name                  data set      val split crop epochs with Lovász
_TABLE = {
    "paper_nyuv2":       ("nyuv2",      "test",   473,  80,    0),
    "paper_sunrgbd":     ("sunrgbd",    "test",   473,  80,    0),
    "paper_ade20k":      ("ade20k",     "val",    473, 100,   20),
    "paper_cityscapes":  ("cityscapes", "val",    473, 200,   40),
    "semseg_ade20k":     ("ade20k",     "val",    473, 100,    0),
    "semseg_cityscapes": ("cityscapes", "val",    713, 200,    0),
}  # fmt: skip
_SOURCES = {
    "paper": "Yu et al. (2020), sections IV-B and IV-C; epochs and weight decay chosen here",
    "semseg": "github.com/hszhao/semseg, config/{0}/{0}_pspnet50.yaml, without its auxiliary loss",
}


def names():
    """All recipes."""
    return list(_TABLE)


def get(name):
    """The arguments of a recipe, named like the options of `keras-sanet train`.

    Raises: ValueError for an unknown name.

    Example:
        recipe = keras_sanet.recipes.get("paper_ade20k")
        recipe["learning_rate"]  # 1e-5
    """
    if name not in _TABLE:
        raise ValueError(f"Unknown recipe {name!r}. Known: {', '.join(_TABLE)}.")
    dataset, val_split, crop, epochs, lovasz_epochs = _TABLE[name]
    return {
        "dataset": dataset,
        "val_split": val_split,
        **_FAMILIES[name.partition("_")[0]],
        "crop_size": (crop, crop),
        "epochs": epochs,
        "lovasz_epochs": lovasz_epochs,
    }


def source(name):
    """Where a recipe is from."""
    family, _, dataset = name.partition("_")
    return _SOURCES[family].format(dataset)
