"""Lightning: its Trainer finds the device, trains, validates, predicts and saves in marked calls."""

import os
import warnings

import checks
import kept
import launches
import lightning
import shim
import torch
from checks import check

FOLDER = os.environ["CHECKS_FOLDER"]
warnings.filterwarnings("ignore", module="lightning")
STEPS = 3
OPTIMIZER = "[Aa]dam|multi_tensor"

torch.manual_seed(0)


class Classifier(lightning.LightningModule):
    """A small network that notes where each step ran."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 4))
        self.devices = set()

    def forward(self, x):
        self.devices.add((x.device.type, self.device.type))
        return self.layers(x)

    def training_step(self, batch, index):
        x, y = batch
        return torch.nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch, index):
        self(batch[0])

    def predict_step(self, batch, index):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


def rows():
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(32, 32), torch.randint(0, 4, (32,))), batch_size=8
    )


def trainer(**more):
    usual = {"accelerator": "gpu", "devices": 1, "max_steps": STEPS, "default_root_dir": FOLDER}
    usual.update(logger=False, enable_progress_bar=False, enable_model_summary=False)
    return lightning.Trainer(**dict(usual, **more))


@check
def the_device_is_found():
    assert lightning.pytorch.accelerators.CUDAAccelerator.is_available()
    assert lightning.pytorch.accelerators.CUDAAccelerator.auto_device_count() == 1
    assert isinstance(lightning.Trainer(logger=False).accelerator, lightning.pytorch.accelerators.CUDAAccelerator)


@check
def a_training_starts_and_is_saved():
    model = Classifier()
    by = trainer(enable_checkpointing=True)
    launches.of(lambda: by.fit(model, rows(), rows()), OPTIMIZER)
    assert by.global_step == STEPS and model.devices == {("cuda", "cuda")}
    (path,) = [os.path.join(folder, name) for folder, _, names in os.walk(FOLDER) for name in names if name.endswith(".ckpt")]
    saved = torch.load(path, map_location="cpu", weights_only=False)
    # Lightning has brought the model home: the same bytes as in its file
    assert not any(tensor.is_cuda for tensor in model.state_dict().values())
    kept.require_same(saved["state_dict"], kept.host_state(model))
    again = Classifier()
    launches.of(lambda: trainer(max_steps=STEPS + 1, enable_checkpointing=False).fit(again, rows(), ckpt_path=path), OPTIMIZER)
    assert again.devices == {("cuda", "cuda")}


@check
def mixed_precision():
    for precision in ("16-mixed", "bf16-mixed"):
        model = Classifier()
        launches.of(lambda: trainer(precision=precision, enable_checkpointing=False).fit(model, rows()), "gemm|gemv|cutlass")
        assert model.devices == {("cuda", "cuda")}


@check
def what_only_reads_the_weights_keeps_them():
    model = Classifier().eval()
    originals = kept.host_state(model)
    by = trainer(enable_checkpointing=False)
    for _ in range(2):
        batches = launches.of(lambda: by.predict(model, rows()), "gemm|gemv|cutlass")
        assert len(batches) == 4 and batches[0].shape == (8, 4)
        launches.of(lambda: by.validate(model, rows(), verbose=False), "gemm|gemv|cutlass")
        kept.require_same(model.state_dict(), originals)
    assert shim.parked()


checks.main()
