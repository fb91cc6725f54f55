"""A program whose trace the timeline's tests look at, without torch: three marked calls, and one call that fails."""

import driver
import spaces

driver.start()
weights = driver.made("cuMemAlloc_v2", 48 << 20)
driver.upload(weights, bytes(48 << 20))
kernel = driver.made("cuModuleGetFunction", driver.image(), b"empty")


@spaces.GPU(duration=30)
def answer():
    driver.launch(kernel)
    driver.call("cuStreamSynchronize", 0)
    return driver.download(weights, 1 << 20)


for _ in range(3):
    assert answer() == bytes(1 << 20)
assert driver.answer("cuMemFree_v2", 12345) == 1
