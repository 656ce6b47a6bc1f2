"""The smallest image that containers can be made from: busybox and nothing else."""

from tests.lab.image import ImageSpec

TINY = ImageSpec(
    name="stackmend-tiny",
    packages=("busybox-static",),
    setup=("/bin/busybox", "--install", "-s"),
    variant="extract",
)
