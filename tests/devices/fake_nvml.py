"""A pretend `pynvml` over pretend GPUs, which fails the ways the real one does."""

# ruff: noqa: N802 - the functions have NVML's own names

from types import ModuleType, SimpleNamespace
from typing import Any


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML code {value}")
        self.value = value


NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND = 3, 4, 9, 12


class Gpu:
    """One pretend GPU; a test bends what it answers."""

    def __init__(self) -> None:
        self.energy: int | None = 5_000_000_000
        self.instant: dict[int, int] = {0: 250_000}  # scope -> mW
        self.usage: int | None = 240_000
        self.mig = [0, 0]
        self.clocks = {1: 1980, 2: 2619}
        self.reasons: int | None = 0
        self.compute: list[Any] | None = []
        self.graphics: list[Any] = []
        self.busy: int | None = 0  # percent
        self.memory = SimpleNamespace(total=80 * 2**30, free=79 * 2**30, used=2**30)
        self.limit: int | None = 700_000
        self.temperature: int | None = 54


class FakeNvml(ModuleType):
    """The functions of nvidia-ml-py that are used, over pretend GPUs; counts who holds NVML."""

    NVMLError = NVMLError
    NVML_SUCCESS = 0
    NVML_ERROR_NO_PERMISSION = NO_PERMISSION
    NVML_ERROR_DRIVER_NOT_LOADED = DRIVER_NOT_LOADED
    NVML_ERROR_LIBRARY_NOT_FOUND = LIBRARY_NOT_FOUND
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_FI_DEV_POWER_INSTANT = 186
    NVML_POWER_SCOPE_GPU, NVML_POWER_SCOPE_MODULE = 0, 1

    def __init__(self, *gpus: Gpu) -> None:
        super().__init__("pynvml")
        self.gpus = gpus
        self.n_held = 0
        self.init_code: int | None = None
        self._nvmlGetFunctionPointer = None

    def nvmlInit(self) -> None:
        if self.init_code is not None:
            raise NVMLError(self.init_code)
        self.n_held += 1

    def nvmlShutdown(self) -> None:
        self.n_held -= 1
        assert self.n_held >= 0

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"550.54"  # as older bindings answer

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        if index >= len(self.gpus):
            raise NVMLError(2)
        return self.gpus[index]

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return "Pretend H100"

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return f"GPU-{self.gpus.index(gpu)}"

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> list[int]:
        return gpu.mig

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: Gpu) -> int:
        return self._given(gpu.energy)

    def nvmlDeviceGetPowerUsage(self, gpu: Gpu) -> int:
        return self._given(gpu.usage)

    def nvmlDeviceGetFieldValues(self, gpu: Gpu, fields: list[tuple[int, int]]) -> list[Any]:
        assert [field for field, _ in fields] == [186]
        milliwatts = gpu.instant.get(fields[0][1])
        code = 0 if milliwatts is not None else NOT_SUPPORTED
        return [SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(uiVal=milliwatts or 0))]

    def nvmlDeviceGetClockInfo(self, gpu: Gpu, kind: int) -> int:
        return self._given(gpu.clocks.get(kind))

    def nvmlDeviceGetTemperatureV(self, gpu: Gpu, sensor: int) -> int:
        return self._given(gpu.temperature)

    def nvmlDeviceGetTemperature(self, gpu: Gpu, sensor: int) -> int:
        return self._given(gpu.temperature)

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: Gpu) -> int:
        return self._given(gpu.reasons)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[Any]:
        return self._given(gpu.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: Gpu) -> list[Any]:
        return gpu.graphics

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 13010

    def nvmlDeviceGetVbiosVersion(self, gpu: Gpu) -> bytes:
        return b"96.00.A5.00.01"

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Any:
        return gpu.memory

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: Gpu) -> int:
        return self._given(gpu.limit)

    def nvmlDeviceGetPersistenceMode(self, gpu: Gpu) -> int:
        return 1

    def nvmlDeviceGetEccMode(self, gpu: Gpu) -> list[int]:
        return [1, 1]

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> Any:
        return SimpleNamespace(gpu=self._given(gpu.busy), memory=0)

    @staticmethod
    def _given(value: Any) -> Any:
        if value is None:
            raise NVMLError(NOT_SUPPORTED)
        return value


class Bare(ModuleType):
    """Bindings of an old driver: all is there but what the test took away."""

    def __init__(self, full: FakeNvml, *lacking: str) -> None:
        super().__init__("pynvml")
        for name in {*vars(FakeNvml), *vars(full)}:
            if name.startswith(("nvml", "NVML", "_nvml")) and name not in lacking:
                setattr(self, name, getattr(full, name))


def process(pid: int, held: int | None) -> Any:
    """A program in NVML's lists."""
    return SimpleNamespace(pid=pid, usedGpuMemory=held)
