"""SANet-ResNeXt-50 as one would write it in PyTorch alone: the peer of the benchmarks.

The network of `keras_sanet.SANet(num_classes)`: the same layers, convolutions and pooling written
out with `torch.nn`, the channels-last memory format, AdamW, cross-entropy.
"""

import torch
from torch import nn
from torch.nn import functional


def convolution(inputs, outputs, size=1, stride=1, dilation=1, groups=1):
    padding = dilation * (size // 2)
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, inputs, planes, stride, dilation):
        super().__init__()
        width, outputs = 2 * planes, 4 * planes
        self.body = nn.Sequential(
            convolution(inputs, width),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            convolution(width, width, 3, stride, dilation, groups=32),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            convolution(width, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        return functional.relu(self.body(x) + self.shortcut(x), inplace=True)


class ConvLSTM(nn.Module):
    def __init__(self, filters, dilation=2):
        super().__init__()
        self.filters = filters
        self.gates = nn.Conv2d(2 * filters, 4 * filters, 3, padding=dilation, dilation=dilation)

    def forward(self, maps):
        h = c = torch.zeros_like(maps[0])
        total = 0
        for x in maps:
            i, f, g, o = self.gates(torch.cat([x, h], dim=1)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            total = total + h
        return total / len(maps)


class SANet(nn.Module):
    def __init__(self, num_classes, filters=256, bins=(1, 2, 3, 4, 6), pyramid_filters=512):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, inputs = [], 64
        for planes, blocks, stride, dilation in (
            (64, 3, 1, 1),
            (128, 4, 2, 1),
            (256, 6, 1, 2),
            (512, 3, 1, 4),
        ):
            stage = []
            for index in range(blocks):
                stage.append(Bottleneck(inputs, planes, stride if index == 0 else 1, dilation))
                inputs = 4 * planes
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        self.adapters = nn.ModuleList(
            convolution(channels, filters) for channels in (64, 256, 512, 1024, 2048)
        )
        self.aggregator = ConvLSTM(filters)
        fused = inputs + filters
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(n),
                convolution(fused, pyramid_filters),
                nn.BatchNorm2d(pyramid_filters),
                nn.ReLU(inplace=True),
            )
            for n in bins
        )
        self.head = nn.Sequential(
            convolution(fused + len(bins) * pyramid_filters, pyramid_filters, 3),
            nn.BatchNorm2d(pyramid_filters),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(pyramid_filters, num_classes, 1),
        )

    def forward(self, image):
        s0 = functional.relu(self.bn1(self.conv1(image)), inplace=True)
        taps, x = [s0], self.pool(s0)
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        size = x.shape[2:]
        y = self.aggregator(
            [adapter(resize(tap, size)) for adapter, tap in zip(self.adapters, taps)]
        )
        x = torch.cat([x, y], dim=1)
        x = torch.cat([x, *(resize(branch(x), size) for branch in self.branches)], dim=1)
        return resize(self.head(x), image.shape[2:])


def resize(x, size):
    if x.shape[2:] == size:
        return x
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def batch(size, batch_size, num_classes):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((batch_size, 3, size, size), generator=generator)
    labels = torch.randint(num_classes, (batch_size, size, size), generator=generator)
    return image.to(memory_format=torch.channels_last), labels


def train_step(size, batch_size, num_classes=40):
    """A function that takes one step and waits for it."""
    model = SANet(num_classes).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    image, labels = batch(size, batch_size, num_classes)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(image), labels, ignore_index=255)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def prediction(size, batch_size=1, num_classes=40):
    """A function that predicts one batch and waits for it."""
    model = SANet(num_classes).to(memory_format=torch.channels_last).eval()
    image, _ = batch(size, batch_size, num_classes)

    def step():
        with torch.inference_mode():
            return model(image).argmax(1).numpy()

    with torch.device("meta"):  # shapes alone, so that no memory is used before the first step
        step.macs = count(SANet(num_classes), torch.empty(image.shape))
    return step


def count(model, image):
    """Multiplications of the convolutions in one forward pass."""
    macs = 0

    def add(module, inputs, outputs):
        nonlocal macs
        macs += module.weight.numel() * outputs.numel() // outputs.shape[1]

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    model.eval()(image)
    return macs


def matrix_products(rows=3600, columns=2304, depth=2304):
    """One product of the size of the network's large ones: what the machine can do."""
    left, right = torch.randn(rows, depth), torch.randn(depth, columns)

    def step():
        with torch.inference_mode():
            return (left @ right).numpy()

    step.macs = rows * columns * depth
    return step


def lovasz_softmax(size, batch_size, num_classes):
    """Value and gradient by the authors' algorithm: class by class, sort, cumulative Jaccard."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn((batch_size, num_classes, size, size), generator=generator)
    logits = logits.to(memory_format=torch.channels_last).requires_grad_()
    labels = torch.randint(num_classes, (batch_size, size, size), generator=generator).flatten()

    def step():
        probabilities = logits.softmax(1).permute(0, 2, 3, 1).flatten(0, 2)
        losses = []
        for index in range(num_classes):
            foreground = (labels == index).float()
            if not foreground.any():
                continue
            errors, order = (foreground - probabilities[:, index]).abs().sort(descending=True)
            foreground = foreground[order]
            intersection = foreground.sum() - foreground.cumsum(0)
            union = foreground.sum() + (1 - foreground).cumsum(0)
            jaccard = 1 - intersection / union
            jaccard[1:] = jaccard[1:] - jaccard[:-1]
            losses.append(errors @ jaccard)
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), logits)
        return gradient.numpy()

    return step
