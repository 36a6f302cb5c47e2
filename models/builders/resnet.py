"""Image classifier with bottleneck blocks (He et al. 2015). Dynamic: batch, and height and width in steps of 32."""
import torch
from torch import nn
from torch.export import Dim

from workload import Workload, jitter_norms


def build(size):
    from torchvision.models import resnet50
    from torchvision.models.resnet import Bottleneck, ResNet

    if size == "full":
        module, classes = resnet50(), 1000
        shapes = [(1, 224, 224), (8, 224, 224), (32, 224, 224), (1, 480, 640)]
    else:
        # torchvision fixes the widths 64…512, so the small net replaces the stages by narrow ones.
        classes = 100
        module = ResNet(Bottleneck, [1, 1, 1, 1])
        module.inplanes = 16
        module.conv1 = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False)
        module.bn1 = nn.BatchNorm2d(16)
        module.layer1 = module._make_layer(Bottleneck, 16, 2)
        module.layer2 = module._make_layer(Bottleneck, 24, 2, stride=2)
        module.layer3 = module._make_layer(Bottleneck, 32, 2, stride=2)
        module.layer4 = module._make_layer(Bottleneck, 48, 2, stride=2)
        module.fc = nn.Linear(48 * Bottleneck.expansion, classes)
        shapes = [(1, 64, 64), (2, 96, 64), (3, 64, 128)]

    batch, h, w = Dim("batch", min=1, max=64), Dim("h32", min=2, max=32), Dim("w32", min=2, max=32)

    def sample(shape):
        b, height, width = shape
        return (torch.randn(b, 3, height, width),)

    return Workload(jitter_norms(module), sample((4, 224, 224) if size == "full" else (4, 64, 96)),
                    {"x": {0: batch, 2: 32 * h, 3: 32 * w}}, ["x"], ["logits"], sample, shapes)
