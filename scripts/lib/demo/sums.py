"""What it came to: claims, bytes, and seconds of GPU, as the broker has logged them."""

import re

# What a card may differ by, before and after: a driver's own bookkeeping.
SLACK = 8 << 20


def leases(log):
    """Each lease that has ended, as the broker's log tells it."""
    ended = [line for line in log.splitlines() if "lease ended" in line]
    return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in ended]


def show(stage, samples):
    """Prints the table; whether the card was empty before and after, and not in between."""
    run = samples[-1].at
    all_of_them = leases(re.sub(r"\x1b\[[0-9;]*m", "", stage.log()))
    print(f"{'':10}{'claims':>8}{'on the card':>14}{'held':>10}{'waited':>10}{'app ran':>10}")
    total = 0.0
    for app in stage.apps:
        own = [lease for lease in all_of_them if lease["name"].strip('"') == app]
        held = sum(float(lease["held_s"]) for lease in own)
        waited = sum(float(lease["waited_s"]) for lease in own)
        most = max((int(lease["bytes_in"]) + int(lease["bytes_warm"]) for lease in own), default=0)
        total += held
        print(f"{app:10}{len(own):>8}{most >> 20:>10} MiB{held:>8.1f} s{waited:>8.1f} s{run:>8.1f} s")
    before, most, after = samples[0].bytes, max(sample.bytes for sample in samples), samples[-1].bytes
    print(f"\nThe card was held for {total:.1f} s of {run:.1f} s: for {100 * total / run:.0f}% of the time that the apps ran.")
    print(f"On the card before, at most, after: {before >> 20} MiB, {most >> 20} MiB, {after >> 20} MiB.", end="")
    print(f" The broker's own {stage.own >> 20} MiB are not counted.\n" if stage.own else "\n", flush=True)
    return max(before, after) <= SLACK < most
