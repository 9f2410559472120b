"""The five architectures in PyTorch, with the names and the arithmetic of models/*.cc.

Used by make_golden (expected values made by an independent implementation) and compare_pytorch
(speed on the same step). Every state_dict key is the name a tensor has in this project's files.

    model = build_model("resnet18", num_classes=10, image_size=(32, 32))
    initialize(model, "resnet18", seed=1)
"""

import math

import torch
from torch import nn
from torch.nn import functional

MODELS = ("vgg16", "resnet18", "googlenet", "mobilenetv1", "densenet121")

# Parameters at 32 x 32 and 10 classes.
PARAMETER_COUNTS = {
    "vgg16": 14986698,
    "resnet18": 11173962,
    "googlenet": 5983402,
    "mobilenetv1": 3217226,
    "densenet121": 6956298,
}


def conv(inputs, outputs, kernel, stride=1, padding=0, groups=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)


class Vgg16(nn.Module):
    CHANNELS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")

    def __init__(self, num_classes, image_size):
        super().__init__()
        layers, channels = [], 3
        for width in self.CHANNELS:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [conv(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        flattened = 512 * (image_size[0] // 32) * (image_size[1] // 32)
        self.classifier = nn.Sequential(nn.Linear(flattened, 512), nn.ReLU(), nn.Linear(512, num_classes))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + shortcut)


class Resnet18(nn.Module):
    def __init__(self, num_classes, image_size):
        super().__init__()
        self.conv1 = conv(3, 64, 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for index, (width, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), start=1):
            blocks = nn.Sequential(BasicBlock(inputs, width, stride), BasicBlock(width, width, 1))
            setattr(self, f"layer{index}", blocks)
            inputs = width
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class ConvBnRelu(nn.Module):
    def __init__(self, inputs, outputs, kernel, padding=0):
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, padding=padding)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, inputs, b1, reduce3, b3, reduce5, b5, b4):
        super().__init__()
        self.branch1 = ConvBnRelu(inputs, b1, 1)
        self.branch2 = nn.Sequential(ConvBnRelu(inputs, reduce3, 1), ConvBnRelu(reduce3, b3, 3, 1))
        self.branch3 = nn.Sequential(ConvBnRelu(inputs, reduce5, 1), ConvBnRelu(reduce5, b5, 5, 2))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvBnRelu(inputs, b4, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Googlenet(nn.Module):
    def __init__(self, num_classes, image_size, dropout=0.2):
        super().__init__()
        self.conv1 = ConvBnRelu(3, 64, 3, 1)
        self.conv2 = ConvBnRelu(64, 64, 1)
        self.conv3 = ConvBnRelu(64, 192, 3, 1)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, 1)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(3, 2, 1)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x):
        x = self.conv3(self.conv2(self.conv1(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.maxpool4(self.inception4e(self.inception4d(x)))
        x = self.inception5b(self.inception5a(x))
        x = torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1)
        return self.fc(self.dropout(x))


class DepthwiseSeparable(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv_dw = conv(inputs, inputs, 3, stride, 1, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv_pw = conv(inputs, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv_dw(x)))
        return functional.relu(self.bn2(self.conv_pw(x)))


class Mobilenetv1(nn.Module):
    GROUPS = (((64, 1),), ((128, 2), (128, 1)), ((256, 2), (256, 1)),
              ((512, 2),) + ((512, 1),) * 5, ((1024, 2), (1024, 1)))

    def __init__(self, num_classes, image_size):
        super().__init__()
        self.conv_stem = conv(3, 32, 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(32)
        groups, inputs = [], 32
        for group in self.GROUPS:
            blocks = []
            for width, stride in group:
                blocks.append(DepthwiseSeparable(inputs, width, stride))
                inputs = width
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.classifier = nn.Linear(1024, num_classes)

    def forward(self, x):
        x = self.blocks(functional.relu(self.bn1(self.conv_stem(x))))
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class DenseLayer(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, 128, 1)
        self.norm2 = nn.BatchNorm2d(128)
        self.conv2 = conv(128, 32, 3, 1, 1)

    def forward(self, x):
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class Transition(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = conv(inputs, inputs // 2, 1)

    def forward(self, x):
        return functional.avg_pool2d(self.conv(functional.relu(self.norm(x))), 2)


class Densenet121(nn.Module):
    def __init__(self, num_classes, image_size):
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", conv(3, 64, 3, 1, 1))
        channels = 64
        for index, count in enumerate((6, 12, 24, 16), start=1):
            block = nn.Sequential()
            for layer in range(1, count + 1):
                block.add_module(f"denselayer{layer}", DenseLayer(channels))
                channels += 32
            self.features.add_module(f"denseblock{index}", block)
            if index < 4:
                self.features.add_module(f"transition{index}", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = functional.relu(self.features(x))
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def build_model(name, num_classes=10, image_size=(32, 32), dropout=None):
    """A fresh network. `image_size` is (height, width); `dropout` overrides the architecture's own."""
    if name == "googlenet":
        return Googlenet(num_classes, image_size, 0.2 if dropout is None else dropout)
    kinds = {"vgg16": Vgg16, "resnet18": Resnet18, "mobilenetv1": Mobilenetv1, "densenet121": Densenet121}
    if name not in kinds:
        raise ValueError(f"unknown model {name!r}; the models are {', '.join(MODELS)}")
    return kinds[name](num_classes, image_size)


def initialize(model, name, seed):
    """The project's initialization in distribution (its generator is another one)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                outputs, inputs, k, _ = module.weight.shape
                if name == "mobilenetv1" and k == 1:
                    limit = math.sqrt(6.0 / (inputs + outputs))
                    module.weight.uniform_(-limit, limit, generator=generator)
                else:
                    fan_out = k * k * outputs / module.groups
                    module.weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
            elif isinstance(module, nn.Linear):
                limit = math.sqrt(6.0 / (module.in_features + module.out_features))
                module.weight.uniform_(-limit, limit, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()


def parameter_counts():
    return {name: sum(p.numel() for p in build_model(name).parameters()) for name in MODELS}


if __name__ == "__main__":
    wrong = {n: c for n, c in parameter_counts().items() if c != PARAMETER_COUNTS[n]}
    if wrong:
        raise SystemExit(f"parameter counts are off: {wrong}")
    for model_name, count in parameter_counts().items():
        print(f"{model_name:12} {count:>11,} parameters")
