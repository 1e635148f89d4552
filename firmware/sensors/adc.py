"""A voltage at an ADC pin, as % of full scale: battery, soil moisture, light.

What it means is up to the value's scale and offset. A battery behind a divider by 2, with 3.3 V
full scale: scale 0.066, in V. Soil that reads 72 % dry and 30 % wet: scale -2.38, offset 171.4.
"""

VALUES = {"value": ("%", None)}
KEYS = {
    "pin": (..., "adc"),
    "samples": (8, "int 1 64"),
    "stuck": (0, (0, "number 1 86400 seconds")),
}


class Sensor:
    """The mean of `samples` conversions, of some 50 us each, on `pin`."""

    def __init__(self, board, options):
        self._adc = board.adc(options["pin"])
        self._samples = options.get("samples", 8)

    def start(self):
        return 0

    def read(self):
        n = 0
        for _ in range(self._samples):
            n += self._adc.read_u16()
        return {"value": n / (655.35 * self._samples)}
