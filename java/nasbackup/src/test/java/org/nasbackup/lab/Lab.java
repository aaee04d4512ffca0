// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

package org.nasbackup.lab;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import org.nasbackup.Configuration;
import org.nasbackup.NasBackup;

/**
 * The corner of the machine with a libvirt of its own in which {@code tests/lab/run} starts tests and demo. A step that
 * fails throws an {@link IllegalStateException} which says all.
 */
public final class Lab {
    private Lab() {}

    private static Path root() {
        String root = System.getenv("NASBACKUP_LAB");
        if (root == null) {
            throw new IllegalStateException("NASBACKUP_LAB is not set: this runs inside a lab only, tests/lab/run ...");
        }
        return Path.of(root);
    }

    /** A fresh folder that QEMU's user can pass through. */
    static Path folder(String what) {
        Path root = root();
        try {
            Path folder = Files.createTempDirectory(root, what + "-");
            return Files.setPosixFilePermissions(folder, PosixFilePermissions.fromString("rwx--x--x"));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The library with its folders inside the lab. */
    static NasBackup open(String logLevel) {
        return NasBackup.open(Configuration.builder()
                .stateDir(folder("state").toString())
                .mountDir(folder("mounts").toString())
                // each call mounts for itself, so that none is left to look for, and what a mount takes is measured
                .mountKeepSeconds(0)
                .logLevel(logLevel)
                .build());
    }

    static String read(Path path) {
        try {
            return Files.readString(path);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** What a program that has to succeed prints. */
    public static String run(String... command) {
        Outcome outcome = outcome(command);
        if (outcome.status != 0) {
            throw new IllegalStateException(outcome.toString());
        }
        return outcome.output;
    }

    /** Runs a program, whatever becomes of it. */
    static Outcome outcome(String... command) {
        try {
            Process process =
                    new ProcessBuilder(command).redirectErrorStream(true).start();
            process.getOutputStream().close();
            String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            return new Outcome(List.of(command), process.waitFor(), output);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(e);
        }
    }

    /** How a program ended. */
    static final class Outcome {
        private final List<String> command;
        final int status;
        final String output;

        private Outcome(List<String> command, int status, String output) {
            this.command = command;
            this.status = status;
            this.output = output;
        }

        @Override
        public String toString() {
            return String.join(" ", command) + ": exit status " + status + ": " + output.strip();
        }
    }

    /** Waits until the condition holds, 60 seconds at most. */
    static void until(String what, BooleanSupplier condition) {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(180);
        while (!condition.getAsBoolean()) {
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException(what + ": not within 60 s");
            }
            try {
                Thread.sleep(20);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                throw new IllegalStateException(e);
            }
        }
    }
}
