#!/usr/bin/python3
"""report.py OUT: makes OUT/results.json, OUT/results.md and plots (SVG) of the samples in OUT/samples."""

import json
import os
import platform
import re
import sys
from collections import Counter
from pathlib import Path
from statistics import linear_regression, median

MIB = 1 << 20
# Who stands for the library in a row, and the same on a repository that is mounted.
LIBRARY = {"native": "warm", "pull": "warm_pull"}


class Samples:
    def __init__(self, lines):
        self.all = [json.loads(line) for line in lines]

    def of(self, section, **fields):
        return [s for s in self.all if s["section"] == section and all(s.get(k) == v for k, v in fields.items())]

    def operations(self):
        """Each (operation, file system, rival that stands for the library), in the order in which they were measured."""
        return list(dict.fromkeys((s["operation"], s["filesystem"], s["rival"]) for s in self.of("operation")
                                  if s["rival"] in LIBRARY))


def middle(values):
    values = [value for value in values if value is not None]
    return median(values) if values else None


def operation(samples, name, filesystem, library):
    """The row of one operation: medians, and pair by pair what compares two rivals."""
    rivals = {"native": library, "warm": LIBRARY[library], "shell": "shell", "floor": "floor", "push": "native"}
    runs, traces = {}, {}
    for role, rival in rivals.items():
        key = {"operation": name, "filesystem": filesystem, "rival": rival}
        runs[role] = {s["run"]: s for s in samples.of("operation", **key)}
        traces.update({role: s for s in samples.of("trace", **key)})

    def of(rival, field):
        return [s.get(field) for s in runs[rival].values()]

    def pairs(left, right, figure):
        return [figure(runs[left][run], runs[right][run]) for run in runs[left] if run in runs[right]]

    def above_floor(warm, floor):
        # the bare calls of a running guest sync nothing
        syncs = 0 if floor.get("syncs", True) else warm["sync_seconds"]
        return (warm["seconds"] - syncs - floor["seconds"]) * 1000

    def spread(rival):
        seconds = of(rival, "seconds")
        return [min(seconds), max(seconds)] if seconds else None

    outside = [(s["seconds"] - s["job_seconds"] - s["sync_seconds"]) * 1000
               for s in runs["warm"].values() if "job_seconds" in s]
    ratios = pairs("native", "shell", lambda native, shell: shell["seconds"] / native["seconds"])
    above = pairs("warm", "floor", above_floor)
    peaks = of("native", "peak_bytes") + of("warm", "peak_bytes")
    first = [traces[role]["peak_bytes"] for role in ("native", "warm") if role in traces]
    return {
        "operation": name,
        "engine": next(iter(of("native", "engine")), None),
        "filesystem": filesystem,
        "runs": len(runs["native"]),
        "native_s": middle(of("native", "seconds")),
        "native_spread_s": spread("native"),
        "native_warm_s": middle(of("warm", "seconds")),
        "native_warm_spread_s": spread("warm"),
        "shell_s": middle(of("shell", "seconds")),
        "shell_spread_s": spread("shell"),
        "shell_version_s": middle(of("shell", "version_seconds")),
        "floor_s": middle(of("floor", "seconds")),
        "floor_spread_s": spread("floor"),
        "ratio": middle(ratios),
        "ratio_spread": [min(ratios), max(ratios)] if ratios else None,
        "ratio_without_version": middle(pairs(
            "native", "shell", lambda native, shell: (shell["seconds"] - shell["version_seconds"]) / native["seconds"])),
        "ratio_mounted": middle(pairs(
            "warm", "shell", lambda warm, shell: (shell["seconds"] - shell["version_seconds"]) / warm["seconds"])),
        "push_ratio": middle(pairs("native", "push", lambda pull, push: pull["seconds"] / push["seconds"])),
        "above_floor_ms": middle(above),
        "above_floor_spread_ms": [min(above), max(above)] if above else None,
        "above_floor_runs": len(above),
        "outside_job_ms": middle(outside),
        "sync_ms": middle([value and value * 1000 for value in of("warm", "sync_seconds")]),
        "traced_sync_ms": traces["warm"]["sync_seconds"] * 1000 if "warm" in traces else None,
        "native_warm_calls": traces.get("warm", {}).get("calls"),
        "shell_calls": traces.get("shell", {}).get("calls"),
        "native_execs": traces.get("native", {}).get("execs"),
        "native_warm_execs": traces.get("warm", {}).get("execs"),
        "shell_execs": traces.get("shell", {}).get("execs"),
        "native_cpu_s": middle(of("native", "cpu_seconds")),
        "shell_cpu_s": middle(of("shell", "cpu_seconds")),
        "native_rss_mib": max(peaks + first, default=0) / MIB,
        "bytes_written": middle(of("native", "bytes_written")),
        "shell_bytes_written": middle(of("shell", "bytes_written")),
    }


def bounds(rows, boundary, big, guest, restored, asked, away, rebased):
    """What must hold: (text, value found, its text, whether it holds). A bound that nothing was measured for is left out."""
    row = {(r["operation"], r["filesystem"]): r for r in rows if r["engine"] != "pull"}
    pull = {(r["operation"], r["filesystem"]): r for r in rows if r["engine"] == "pull"}
    found = []

    def bound(text, value, unit, holds):
        if value is not None:
            found.append({"must_hold": text, "found": value, "unit": unit, "holds": bool(holds(value))})

    def get(name, field, filesystem="xfs"):
        return row.get((name, filesystem), {}).get(field)

    bound("incremental: at least 2.5x faster than the script without its `virsh version` calls",
          get("incremental", "ratio_without_version"), "x", lambda value: value >= 2.5)
    bound("full: at least 2x faster than the script", get("full", "ratio"), "x", lambda value: value >= 2)
    for name, most in (("full", 60), ("incremental", 60), ("incremental after a restart", 40)):
        bound(f"{name}: at most {most} ms plus its syncs above the floor, mounted, by push",
              get(name, "above_floor_ms"), "ms", lambda value, most=most: value <= most)
    for name, filesystem, least in (("rebase", "xfs", 80), ("rebase", "ext4", 3.5), ("merge", "ext4", 3.5), ("stopped full", "xfs", 1.5)):
        bound(f"{name}, {filesystem}, mounted: at least {least}x faster than the script without its `virsh version` calls",
              get(name, "ratio_mounted", filesystem), "x", lambda value, least=least: value >= least)
    stats, delete = get("stats", "native_warm_s"), row.get(("delete", "xfs"))
    bound("stats: at most 10 ms, mounted", stats and stats * 1000, "ms", lambda value: value <= 10)
    bound("delete: at most 10 ms plus its syncs, mounted",
          delete and delete["native_warm_s"] * 1000 - delete["traced_sync_ms"], "ms", lambda value: value <= 10)
    running = [r for r in rows if r["operation"] != "stopped full"]
    for field, text, most in (("native_warm_execs", "mounted", 0), ("native_execs", "not mounted", 1)):
        counts = [r[field] for r in running if r[field] is not None]
        bound(f"processes started, {text}, no stopped guest: at most {most}",
              max(counts, default=None), "", lambda value, most=most: value <= most)
    # two of a flatten's sixteen threads share a huge page; what the JVM takes meanwhile counts, too
    for engine, what, most in (("push", "push", 32), ("pull", "pull", 96), (None, "no backup", 24)):
        peaks = [r["native_rss_mib"] for r in rows if r["engine"] == engine]
        bound(f"peak memory added, {what}: at most {most} MiB",
              max(peaks, default=None), "MiB", lambda value, most=most: value <= most)
    for call in ("nothing", "refused", "jobs"):
        micros = next((s["micros"] for s in boundary if s["call"] == call), None)
        bound(f"a round trip through JNI, {call}: at most 50 µs", micros, "µs", lambda value: value <= 50)
    bound("incremental by pull: at most 1.15x the time of push", pull.get(("incremental", "xfs"), {}).get("push_ratio"), "x",
          lambda value: value <= 1.15)
    bound("full of 3 GiB by pull, guest idle: at most 1.05x the time of push", big.get("pull_to_push"), "x",
          lambda value: value <= 1.05)
    bound("200 writes of 64 KiB to clusters not copied yet, by pull: at most 4x their time without a backup",
          big.get("burst_pull_to_none"), "x", lambda value: value <= 4)
    # of the slower of the two rates that are asked for
    bound("verify: at least 0.8 of the disk's sequential speed, or 1 GB/s", big.get("verify_to_target"), "of it",
          lambda value: value >= 1)
    bound("incremental of an unchanged disk by fingerprints: at most 1.05x the time of reading the disk", big.get("unchanged_to_read"), "x",
          lambda value: value <= 1.05)
    bound("full of 3 GiB of a stopped guest: at least 1.5x faster than `qemu-img convert` and sync", big.get("convert_to_stopped"), "x",
          lambda value: value >= 1.5)
    bound("full of 3 GiB of a stopped guest: at most the CPU seconds of `qemu-img convert` and sync", big.get("stopped_cpu_to_convert"), "x",
          lambda value: value <= 1)
    p99 = {(g["what"], g["phase"]): g["p99_ms"] for g in guest}
    for what in ("write", "read"):
        ill = [value for (of, phase), value in p99.items() if of == what and phase.startswith("pull, NAS") and value]
        bound(f"99 of 100 {what}s of a guest, by pull, NAS slow, hanging or full: at most 3x what they take with a good one",
              max(ill, default=0) / p99[what, "pull"] if ill else None, "x", lambda value: value <= 3)
    for kind in ("raw", "qcow2"):
        bound(f"a full of 3 GiB restored to {kind} on another file system, synced: at least 1.3x faster than `qemu-img convert`"
              " and sync", restored["ratios"].get(f"full to {kind}"), "x", lambda value: value >= 1.3)
    bound("the same from a NAS 5 ms away: at least 4x faster than one reader reads it", restored["ratios"].get("5 ms away"), "x",
          lambda value: value >= 4)
    by_pull = {r["operation"]: r for r in asked if r["engine"] == "pull"}
    nothing = {"asked": (0, None), "chain": (0, 0)}
    for name, most in (("full", 80), ("incremental", 80), ("incremental of a stopped guest", 80), ("backupStats", 2),
                       ("rebasePoint", 90), ("deleteBackup", 30)):
        bound(f"{name}, two disks, by pull: at most {most} requests to an NFS 4.2 server", by_pull.get(name, nothing)["asked"][1], "",
              lambda value, most=most: value <= most)
    verified = by_pull.get("verifyChain", nothing)
    bound("verifyChain, two disks, by pull: at most 6 requests for each image",
          verified["asked"][1] and verified["asked"][1] / (2 * verified["chain"][1]), "", lambda value: value <= 6)
    least, most = by_pull.get("incremental", nothing)["asked"]
    bound("incremental, by pull, on six points: as many requests as on one, or 6 more", most and most - least, "more",
          lambda value: value <= 6)
    pull_away = away.get("pull", {})
    bound("incremental of 5 MiB, by pull: at most 40 requests one after the other", pull_away.get("in_a_row"), "",
          lambda value: value <= 40)
    bound("the same from a server 5 ms away: at most 3x its time without delay", pull_away.get("ratios", {}).get(5), "x",
          lambda value: value <= 3)
    for r in rebased:
        for what, ratio in (("rebase", "ratio"), ("merge", "merge_ratio")):
            bound(f"{what} of 128 MiB on {r['nas']}, {r['delay']} ms away, synced: at least 3.5x faster than `qemu-img`", r[ratio], "x",
                  lambda value: value >= 3.5)
    bound("cancel in the middle of a full: at most 1 s", big.get("cancel_s"), "s", lambda value: value <= 1)
    return found


def large(samples):
    """Figures of the 3 GiB disk: a row for each thing that was measured, and how they compare, run by run."""
    rows = []
    for what, engine in dict.fromkeys((s["what"], s["engine"]) for s in samples.of("large")):
        found = samples.of("large", what=what, engine=engine)
        seconds = [s["seconds"] for s in found]
        rows.append({"what": what, "engine": engine, "runs": len(found), "seconds": median(seconds),
                     "spread": [min(seconds), max(seconds)], "mib_s": median(s["mib"] / s["seconds"] for s in found),
                     "cpu_s_gib": middle([s.get("cpu_seconds") and s["cpu_seconds"] / s["mib"] * 1024 for s in found]),
                     "within_the_backup": all(s.get("within_the_backup", True) for s in found)})

    def compared(over, under, figure=lambda over, under: over["seconds"] / under["seconds"]):
        lower = {s["run"]: s for s in samples.of("large", what=under[0], engine=under[1])}
        upper = samples.of("large", what=over[0], engine=over[1])
        return middle([figure(s, lower[s["run"]]) for s in upper if s["run"] in lower])

    def to_target(verify, read):
        return verify["mib"] * MIB / verify["seconds"] / min(0.8 * read["mib"] * MIB / read["seconds"], 1e9)

    idle, stopped, converted = "full of an idle guest", ("full of a stopped guest", "none"), ("qemu-img convert and sync", "none")
    return {"rows": rows,
            "stopped_cpu_to_convert": compared(stopped, converted, lambda ours, theirs: ours["cpu_seconds"] / theirs["cpu_seconds"]),
            "convert_to_stopped": compared(converted, stopped),
            "pull_to_push": compared((idle, "pull"), (idle, "push")),
            "burst_pull_to_none": compared(("burst", "pull"), ("burst", "none")),
            "verify_to_target": compared(("verify", "none"), ("read the point", "none"), to_target),
            "cancel_s": max((s["seconds"] for s in samples.of("large", what="cancel")), default=None),
            "unchanged_to_read": compared(("incremental by fingerprints", "pull"), ("read the disk", "none"))}


def restores(samples):
    """Restores of the 3 GiB full: a row for each thing that was measured, and how much faster they are, run by run."""
    rows = []
    for what, who in dict.fromkeys((s["what"], s["who"]) for s in samples.of("restore")):
        found = samples.of("restore", what=what, who=who)
        seconds = [s["seconds"] for s in found]
        rows.append({"what": what, "who": who, "runs": len(found), "seconds": median(seconds),
                     "spread": [min(seconds), max(seconds)], "read_mib": median(s["read"] for s in found) / MIB})
    ratios = {}
    for what, rival in (("full to raw", "qemu-img"), ("full to qcow2", "qemu-img"), ("5 ms away", "one reader")):
        theirs = {s["run"]: s["seconds"] for s in samples.of("restore", what=what, who=rival)}
        ours = samples.of("restore", what=what, who="restorePoint")
        ratios[what] = middle([theirs[s["run"]] / s["seconds"] for s in ours if s["run"] in theirs])
    return {"rows": rows, "ratios": ratios}


def requests(samples):
    """What each operation asked of an NFS server over the lengths of the chain: a count is (least, most)."""
    rows = []
    for name, engine in dict.fromkeys((s["operation"], s["engine"]) for s in samples.of("nas")):
        found = samples.of("nas", operation=name, engine=engine)

        def spread(counts):
            return min(counts), max(counts)

        def kinds(field):
            names = {kind for s in found for kind in s[field]}
            counts = {kind: spread([s[field].get(kind, 0) for s in found]) for kind in names}
            return dict(sorted(counts.items(), key=lambda item: (-item[1][1], item[0])))

        rows.append({"operation": name, "engine": engine, "chain": spread([s["chain"] for s in found]),
                     "asked": spread([sum(s["asked"].values()) for s in found]), "kinds": kinds("asked"),
                     "background": kinds("background"), "again": spread([s["again"] for s in found])})
    return rows


def away(samples):
    """By engine, the seconds of an incremental by the server's delay in ms, and how many requests follow one another."""
    found = {}
    for engine in dict.fromkeys(s["engine"] for s in samples.of("nas away")):
        delays = sorted({s["delay"] for s in samples.of("nas away", engine=engine)})
        seconds = {d: [s["seconds"] for s in samples.of("nas away", engine=engine, delay=d)] for d in delays}
        middles = {d: median(of) for d, of in seconds.items()}
        found[engine] = {"seconds": middles, "spread": {d: [min(of), max(of)] for d, of in seconds.items()},
                         "ratios": {d: of / middles[0] for d, of in middles.items()},
                         # at the longest delay, where the fewest follow one another by chance
                         "in_a_row": median(s["in_a_row"] for s in samples.of("nas away", engine=engine, delay=delays[-1]))}
    return found


def rebases(samples):
    """Rebases and merges on a mounted NAS: medians by its kind and delay in ms, and how much faster ours are, run by run."""
    rows = []
    for nas, delay in dict.fromkeys((s["nas"], s["delay"]) for s in samples.of("nas rebase")):
        by = {who: {s["run"]: s["seconds"] for s in samples.of("nas rebase", nas=nas, delay=delay, who=who)}
              for who in ("theirs", "ours", "merge")}

        def ratio(who, by=by):
            return middle([by["theirs"][run] / seconds for run, seconds in by[who].items()])

        rows.append({"nas": nas, "delay": delay, "runs": len(by["ours"]), **{who: middle(of.values()) for who, of in by.items()},
                     "ratio": ratio("ours"), "merge_ratio": ratio("merge")})
    return rows


NIGHTS = {"Quiet": "no backups", "Full": "fulls", "Changes": "incrementals", "Restarts": "restarted guests",
          "KilledAgent": "and a killed agent", "SlowNas": "and a slow NAS"}


def nights(samples):
    """What so many guests' backups took, a row for each night, and how many images were read back after the last."""
    rows = [s for s in samples.of("night") if s["kind"] in NIGHTS]
    return {"rows": rows, "read_back": sum(s["images"] for s in samples.of("night", kind="ReadBack"))}


def by_slots(guests):
    """The simulated nights that differ in their slots alone, side by side."""
    rows = {}
    for night in (g for g in guests if g["kind"] == "night"):
        rows.setdefault((night["servers"], night["hosts"], night["nas"]), []).append(night)
    return rows


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    with open("/proc/meminfo") as info:
        memory = int(info.readline().split()[1]) // MIB
    return {"cpu": cpu, "cores": len([line for line in open("/proc/cpuinfo") if line.startswith("processor")]),
            "memory_gib": memory, "kernel": platform.release(),
            "accelerator": os.environ.get("NASBACKUP_LAB_ACCELERATOR", "tcg")}


def text(value, unit="", digits=3):
    return "-" if value is None else f"{value:,.{digits}f}{unit and ' ' + unit}"


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
                     + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def named(row):
    return row["operation"] + (" (pull)" if row["engine"] == "pull" else "")


def counted(value, unit):
    return f"{value:,} {unit}{'s' if value > 1 and not unit.endswith('B') else ''}"


def above_the_floor(row):
    if row["above_floor_ms"] is None:
        return "-"
    least, most = row["above_floor_spread_ms"]
    return f"{row['above_floor_ms']:.0f} ({least:.0f}..{most:.0f}) ms, {counted(row['above_floor_runs'], 'run')}"


def megabytes(value):
    return text(value and value / 1e6, "", 1)


def with_spread(row, rival):
    spread = row[f"{rival}_spread_s"]
    return "-" if spread is None else f"{row[f'{rival}_s']:.3f} ({spread[0]:.3f}..{spread[1]:.3f})"


def from_to(counts):
    least, most = counts
    return f"{least}" if least == most else f"{least} to {most}"


def by_kind(counts):
    return ", ".join(f"{kind} {from_to(count)}" for kind, count in counts.items()) or "-"


def many_guests(guests):
    nights = by_slots(guests)
    first = next(iter(nights.values()))

    def each(of, field, unit, digits):
        return " / ".join(f"{night[field] / unit:.{digits}f}" for night in of)

    slots = " / ".join(str(night["slots"]) for night in first)
    return ["## Many guests\n",
            table(["job", "machines of 30 points", "statements", "rows looked at", "ms"],
                  [[g["job"], f"{g['guests']:,}", str(g["statements"]), f"{g['rows']:,}", f"{g['seconds'] * 1000:.0f}"]
                   for g in guests if g["kind"] == "statements"]),
            f"10,000 guests by a virtual clock; a backup: {first[0]['fixed']:.2f} s and its bytes at {first[0]['rate'] / MIB:.0f} MiB/s"
            f" at most. By slots of each host, {slots}:\n",
            table(["servers", "hosts", "NAS, GB/s", "the night, min", "a backup on average, s", "the longest, min", "waited on average, s", "longest, min",
                   "most at once"],
                  [[str(servers), str(hosts), f"{nas / 1e9:.0f}", each(of, "seconds", 60, 1), each(of, "backup", 1, 1),
                    each(of, "longest", 60, 1), each(of, "wait", 1, 0), each(of, "longest_wait", 60, 1), each(of, "at_once", 1, 0)]
                   for (servers, hosts, nas), of in nights.items()])]


def markdown(results):
    m, rows = results["machine"], results["operations"]
    parts = [
        "# Benchmark\n",
        f"{m['cores']} cores of {m['cpu']}, {m['memory_gib']} GiB, Linux {m['kernel']}, Linux guests by {m['accelerator']}."
        f" Begin of each section (UTC), and load average then: {'; '.join(f'{name} {at[:16]}, {load:.1f}' for name, (at, load) in results['sections'].items())}."
        " Seconds: median (least..most). docs/benchmark.md says how each figure is made.\n",
        "## What must hold\n",
        table(["", "found", ""], [[b["must_hold"], text(b["found"], b["unit"], 2), "holds" if b["holds"] else "**does not hold**"]
                                  for b in results["must_hold"]]),
        "## Operations\n",
        table(["operation", "NAS", "runs", "native", "native, mounted", "script", "of it virsh version", "floor",
               "ratio", "without version"],
              [[named(r), r["filesystem"], str(r["runs"]), with_spread(r, "native"), with_spread(r, "native_warm"),
                with_spread(r, "shell"), text(r["shell_version_s"]), with_spread(r, "floor"), text(r["ratio"], "x", 1),
                text(r["ratio_without_version"], "x", 1)] for r in rows]),
        table(["operation", "NAS", "above the floor", "outside the job", "syncs", "processes", "mounted", "script",
               "CPU s", "script", "memory MiB", "MB written", "script"],
              [[named(r), r["filesystem"], above_the_floor(r), text(r["outside_job_ms"], "ms", 0),
                text(r["sync_ms"] if r["sync_ms"] is not None else r["traced_sync_ms"], "ms", 0),
                text(r["native_execs"], "", 0), text(r["native_warm_execs"], "", 0), text(r["shell_execs"], "", 0),
                text(r["native_cpu_s"], "", 2), text(r["shell_cpu_s"], "", 2), text(r["native_rss_mib"], "", 1),
                megabytes(r["bytes_written"]), megabytes(r["shell_bytes_written"])] for r in rows]),
    ]
    calls = [r for r in rows if r["native_warm_calls"] is not None]
    if calls:
        parts += ["System calls on files of the repository, mounted, by the library's process and by the script's; QEMU's are not among them:\n",
                  table(["operation", "NAS", "library", "of which", "script"],
                        [[named(r), r["filesystem"], str(sum(r["native_warm_calls"].values())),
                          ", ".join(f"{call} {count}" for call, count in Counter(r["native_warm_calls"]).most_common()),
                          str(sum((r["shell_calls"] or {}).values()))] for r in calls])]
    big = results["large"]
    if big["rows"]:
        parts += ["## A disk of 3 GiB\n",
                  table(["what", "engine", "runs", "seconds", "MiB/s", "CPU s per GiB"],
                        [[("200 writes of the guest" if r["what"] == "burst" else r["what"]), r["engine"], str(r["runs"]),
                          ("" if r["within_the_backup"] else "until the backup ended: ")
                          + f"{r['seconds']:.3f} ({r['spread'][0]:.3f}..{r['spread'][1]:.3f})",
                          "-" if r["what"] in ("burst", "cancel") else text(r["mib_s"], "", 0), text(r["cpu_s_gib"], "", 2)]
                         for r in big["rows"]])]
    restored = results["restores"]["rows"]
    if restored:
        parts += ["## A full of 3 GiB restored\n",
                  table(["what", "by", "runs", "seconds", "MiB read from the NAS"],
                        [[r["what"], r["who"], str(r["runs"]), f"{r['seconds']:.2f} ({r['spread'][0]:.2f}..{r['spread'][1]:.2f})",
                          text(r["read_mib"] or None, "", 0)] for r in restored])]
    if results["requests"]:
        parts += ["## Requests to an NFS server\n",
                  table(["operation", "engine", "points", "requests", "of which", "in the background", "sent again"],
                        [[r["operation"], r["engine"], from_to(r["chain"]), from_to(r["asked"]), by_kind(r["kinds"]),
                          by_kind(r["background"]), from_to(r["again"])] for r in results["requests"]])]
    if results["away"]:
        parts += ["An incremental of 5 MiB, seconds, by the server's delay, and the requests that follow one another:\n",
                  table(["engine", *(f"{d} ms" for d in next(iter(results["away"].values()))["seconds"]), "requests"],
                        [[engine, *(f"{a['seconds'][d]:.2f} ({a['spread'][d][0]:.2f}..{a['spread'][d][1]:.2f})" for d in a["seconds"]),
                          text(a["in_a_row"], "", 0)] for engine, a in results["away"].items()])]
    if results["rebases"]:
        parts += ["A rebase of 128 MiB on a mounted NAS, cold and synced, and the same where the parent is deleted next, seconds:\n",
                  table(["NAS", "ms away", "runs", "`qemu-img`", "library", "ratio", "merge", "ratio"],
                        [[r["nas"], str(r["delay"]), str(r["runs"]), *(text(r[who], "", 2) for who in ("theirs", "ours")),
                          text(r["ratio"], "x", 1), text(r["merge"], "", 2), text(r["merge_ratio"], "x", 1)]
                         for r in results["rebases"]])]
    if results["nights"]["rows"]:
        parts += ["## Nights\n",
                  table(["night", "at once", "guests", "s", "guests per hour", "MiB written", "CPU s of agents", "of QEMU", "MiB of an agent",
                         "threads", "merges", "images written over", "verified", "calls lost", "p99 ms of writes", "worst guest's", "longest"],
                        [[NIGHTS[n["kind"]], text(n.get("slots"), "", 0), str(n["guests"]), text(n.get("seconds"), "", 1),
                          text(n.get("seconds") and n["guests"] * 3600 / n["seconds"], "", 0),
                          text(n.get("bytes") and n["bytes"] / MIB, "", 0),
                          *(text(n.get(field), "", 1) for field in ("cpu", "qemu_cpu")),
                          text(n.get("kib") and n["kib"] / 1024, "", 0),
                          *(text(n.get(field), "", 0) for field in ("threads", "merges", "committed", "verified", "gone")),
                          *(text(n[field], "", 1) for field in ("p99", "worst_p99", "longest"))] for n in results["nights"]["rows"]]),
                  f"Read back at the end: {results['nights']['read_back']} images.\n"]
    if results["guests"]:
        parts += many_guests(results["guests"])
    if results["growth"]:
        parts += ["## Growth\n", *[f"- {line}" for line in results["growth_in_words"]], "",
                  table(["what", "", "full s", "incremental s", "memory MiB"],
                        [[g["what"], counted(g["value"], g["unit"]), text(g.get("full_s")), text(g.get("incremental_s")),
                          text(g.get("rss_mib"), "", 1)] for g in results["growth"]])]
    if results["latency"]:
        parts += ["## Writes and reads of the guest\n", "64 KiB at random places, one at a time, past every cache of the guest.\n",
                  table(["", "meanwhile", "count", "p50 ms", "p99 ms", "max ms"],
                        [[w["what"], w["phase"], str(w["count"]), *(text(w[k], "", 2) for k in ("p50_ms", "p99_ms", "max_ms"))]
                         for w in results["latency"]])]
    if results["boundary"]:
        parts += ["## The boundary\n",
                  table(["call", "µs", "least..most"],
                        [[b["call"], text(b["micros"], "", 2), f"{b['micros_min']:.2f}..{b['micros_max']:.2f}"]
                         for b in results["boundary"]])]
    return "\n".join(parts)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def latency(samples):
    found = []
    for what, phase in dict.fromkeys((s["what"], s["phase"]) for s in sorted(samples.of("latency"), key=written_first)):
        micros = [m for s in samples.of("latency", what=what, phase=phase) for m in s["micros"]]
        p99 = percentile(micros, .99) / 1000 if len(micros) >= 100 else None  # of fewer it would be the longest
        found.append({"what": what, "phase": phase, "count": len(micros), "p50_ms": percentile(micros, .5) / 1000,
                      "p99_ms": p99, "max_ms": max(micros) / 1000})
    return found


def written_first(sample):
    return sample["what"] != "write"


def growth(samples):
    """One row for each point of a curve, the median of its runs."""
    keys = dict.fromkeys((s["what"], s["value"], s["unit"]) for s in samples.of("growth"))
    rows = []
    for what, value, unit in sorted(keys, key=lambda key: (list(keys).index(next(k for k in keys if k[0] == key[0])), key[1])):
        found = samples.of("growth", what=what, value=value)
        row = {"what": what, "value": value, "unit": unit}
        for field, name, scale in (("full_seconds", "full_s", 1), ("incremental_seconds", "incremental_s", 1),
                                   ("peak_bytes", "rss_mib", MIB)):
            figure = middle([s.get(field) for s in found])
            if figure is not None:
                row[name] = figure / scale
        rows.append(row)
    return rows


def growth_in_words(rows):
    words = []
    for what in dict.fromkeys(row["what"] for row in rows):
        curve = [row for row in rows if row["what"] == what]
        for figure, name in (("full_s", "full"), ("incremental_s", "incremental")):
            points = [(row["value"], row[figure]) for row in curve if figure in row]
            if len(points) > 1:
                (x0, y0), (x1, y1) = points[0], points[-1]
                slope = linear_regression(*zip(*points)).slope
                words.append(f"{what}, {name}: {slope * 1000:+.2f} ms for each further {curve[0]['unit']}"
                             f" ({y0:.3f} s at {x0:,}, {y1:.3f} s at {x1:,})")
    return words


def duration(seconds, _position=None):
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


COLOURS = {"script": "#c8553d", "native": "#2b6f9e", "floor": "#222222", "none": "#8a949b", "push": "#c8553d", "pull": "#2b6f9e"}


def plots(results, samples, out):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.hashsalt": "nasbackup", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
                         "axes.grid": True, "axes.grid.axis": "x", "grid.color": "#dddddd", "axes.axisbelow": True,
                         "legend.frameon": False, "figure.facecolor": "white", "svg.fonttype": "none"})
    made = f"{results['date']}, {results['machine']['cores']} cores of {results['machine']['cpu']}"

    def save(figure, name):
        figure.tight_layout()
        figure.savefig(out / name, metadata={"Date": None}, bbox_inches="tight")
        # a tenth of a point is more than a screen shows
        (out / name).write_text(re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), (out / name).read_text()))
        plt.close(figure)

    for plot, name in ((plot_operations, "operations.svg"), (plot_growth, "growth.svg"), (plot_latency, "latency.svg")):
        figure = plot(plt, results, samples, made)
        if figure is not None:
            save(figure, name)


def plot_operations(plt, results, _samples, made):
    rows = [r for r in results["operations"] if r["shell_s"] is not None]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(rows) + 1.2))
    for i, r in enumerate(rows):
        for name, key, at in (("script", "shell_s", i - 0.19), ("native", "native_s", i + 0.19)):
            axes.barh(at, r[key], 0.36, color=COLOURS[name], label=name if i == 0 else None)
            axes.annotate(f" {duration(r[key])}", (r[key], at), va="center", fontsize=7.5)
        if r["floor_s"]:
            axes.vlines(r["floor_s"], i - 0.4, i + 0.4, color=COLOURS["floor"], linewidth=1.5,
                        label="floor" if i == 0 else None)
        axes.annotate(f"{r['ratio']:.1f}x", (1.02, i), xycoords=("axes fraction", "data"), va="center", fontweight="bold")
    several = len({r["filesystem"] for r in rows}) > 1
    axes.set_yticks(range(len(rows)), [named(r) + (f", {r['filesystem']}" if several else "") for r in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xscale("log")
    axes.set_xlim(0.001, max(r["shell_s"] for r in rows) * 3)
    axes.xaxis.set_major_formatter(duration)
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncol=3)
    axes.set_title(f"Time of each operation, logarithmic; right: faster than the script by\n{made}", fontsize=9)
    return figure


def plot_growth(plt, results, _samples, made):
    curves = [what for what in dict.fromkeys(r["what"] for r in results["growth"])
              if len([r for r in results["growth"] if r["what"] == what]) > 1]
    if not curves:
        return None
    figure, all_axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 3.2), squeeze=False)
    for axes, what in zip(all_axes[0], curves):
        curve = [r for r in results["growth"] if r["what"] == what]
        for name, key, colour in (("full", "full_s", "#c8553d"), ("incremental", "incremental_s", "#2b6f9e")):
            points = [(r["value"], r[key]) for r in curve if key in r]
            if points:
                axes.plot(*zip(*points), marker="o", markersize=4, color=colour, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks([r["value"] for r in curve], [str(r["value"]) for r in curve])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda seconds, _: "0" if seconds == 0 else duration(seconds))
        axes.grid(axis="y")
        axes.set_xlabel(f"{what}, {curve[0]['unit']}{'' if curve[0]['unit'].endswith('B') else 's'}")
        axes.legend()
    figure.suptitle(f"Time of a backup by the library; {made}", fontsize=9)
    return figure


def plot_latency(plt, results, samples, made):
    if not results["latency"]:
        return None
    figure, both = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
    for what, axes in zip(("write", "read"), both):
        for phase in dict.fromkeys(s["phase"] for s in samples.of("latency")):
            seconds = sorted(m / 1e6 for s in samples.of("latency", what=what, phase=phase) for m in s["micros"])
            engine, _, nas = phase.partition(", ")
            axes.plot(seconds, [(i + 1) / len(seconds) * 100 for i in range(len(seconds))], label=phase,
                      color=COLOURS["none" if phase == "no backup" else engine],
                      linestyle={"": "-", "NAS hangs": ":", "NAS full": "-."}.get(nas, "--"))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(duration)
        axes.set_ylim(0, 101)
        axes.grid(axis="y")
        axes.set_xlabel(f"of the guest's {what}s take at most")
    both[0].set_ylabel("%")
    both[1].legend(title="meanwhile", loc="lower right", fontsize=8)
    figure.suptitle(f"64 KiB writes and reads of a guest; {made}", fontsize=9)
    return figure


def main(out):
    files = sorted((out / "samples").glob("*.jsonl"))
    samples = Samples(line for file in files for line in file.read_text().splitlines())
    rows = [operation(samples, *key) for key in samples.operations()]
    boundary = [{k: v for k, v in s.items() if k != "section"} for s in samples.of("boundary")]
    machines = {file.stem: json.loads(file.read_text().splitlines()[0]) for file in files}
    curves, big, guest, restored = growth(samples), large(samples), latency(samples), restores(samples)
    asked, far, rebased = requests(samples), away(samples), rebases(samples)
    results = {
        "date": max(m["when"] for m in machines.values())[:10],
        "machine": machine(),
        "sections": {name: (m["when"], m["load"]) for name, m in machines.items()},
        "must_hold": bounds(rows, boundary, big, guest, restored, asked, far, rebased),
        "operations": rows,
        "large": big,
        "restores": restored,
        "requests": asked,
        "away": far,
        "rebases": rebased,
        "nights": nights(samples),
        "guests": samples.of("guests"),
        "growth": curves,
        "growth_in_words": growth_in_words(curves),
        "latency": guest,
        "boundary": boundary,
    }
    (out / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    (out / "results.md").write_text(markdown(results))
    plots(results, samples, out)
    print(markdown(results))
    print(f"In {out}: results.json, results.md, {', '.join(sorted(p.name for p in out.glob('*.svg')))}")


main(Path(sys.argv[1]))
