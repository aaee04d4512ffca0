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

package org.nasbackup;

import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/**
 * The file that the JVM is about to load as the native library. The JVM maps it, and dies when it touches a byte of a mapping
 * behind the end of the file: so the file is checked first.
 */
final class LibraryFile {
    static final String STEP = "load the native library";

    private static final int ELF_HEADER = 64;
    private static final int PROGRAM_HEADER = 56;
    private static final int ELF_64_LITTLE_ENDIAN = 0x0102;

    private LibraryFile() {}

    /** The first one in {@code java.library.path}, which is the one that {@link System#loadLibrary} would take. */
    static Path onPath() throws IOException {
        String path = System.getProperty("java.library.path", "");
        StringBuilder passedOver = new StringBuilder();
        for (String folder : path.split(File.pathSeparator)) {
            try {
                Path file = Path.of(folder, System.mapLibraryName("nasbackup")).toAbsolutePath();
                if (Files.exists(file)) {
                    return file;
                }
            } catch (InvalidPathException e) {
                // the JVM can't open a folder whose name the locale can't express
                passedOver.append("; '" + folder + "' is no path in this locale, set LC_ALL");
            }
        }
        throw new IOException("no nasbackup in " + path + passedOver);
    }

    /**
     * Refuses a file that does not have the length and the hash of the library that the jar was built with. A jar that was built
     * without a library does not know them: then it refuses a file that is shorter than its own header says.
     */
    static void check(Path file, String length, String sha256) throws IOException {
        if (sha256.isEmpty()) {
            System.getLogger("nasbackup")
                    .log(System.Logger.Level.INFO, "'" + file + "' is taken as it is: the jar does not know its hash");
            checkWhole(file);
            return;
        }
        String found = sha256(file);
        if (!found.equals(sha256)) {
            throw NasBackupException.of(
                    ErrorCode.VERSION_MISMATCH,
                    STEP,
                    "'" + file + "' has " + Files.size(file) + " bytes and SHA-256 " + found + ", the library of this"
                            + " jar has " + length + " bytes and SHA-256 " + sha256 + "; install libnasbackup.so and"
                            + " nasbackup.jar of one build",
                    null);
        }
    }

    static String sha256(Path file) throws IOException {
        MessageDigest digest;
        try {
            digest = MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every Java has SHA-256", e);
        }
        try (InputStream in = new DigestInputStream(Files.newInputStream(file), digest)) {
            byte[] buffer = new byte[1 << 16];
            while (in.read(buffer) >= 0) {
                // the stream counts and hashes what is read
            }
        }
        StringBuilder hex = new StringBuilder();
        for (byte b : digest.digest()) {
            hex.append(String.format("%02x", b));
        }
        return hex.toString();
    }

    /** Refuses an ELF file for 64 bits that is shorter than its header says. The loader itself refuses every other file. */
    private static void checkWhole(Path file) throws IOException {
        try (FileChannel channel = FileChannel.open(file)) {
            ByteBuffer header = read(channel, 0, ELF_HEADER);
            boolean known = header.limit() == ELF_HEADER
                    && header.getInt(0) == 0x464c457f
                    && header.getShort(4) == ELF_64_LITTLE_ENDIAN;
            long end = known ? end(channel, header) : 0;
            if (end < 0 || end > channel.size()) {
                throw NasBackupException.of(
                        ErrorCode.INTERNAL,
                        STEP,
                        "'" + file + "' was cut off: it has " + channel.size() + " bytes, and by its own header it"
                                + " reaches to " + Long.toUnsignedString(end) + "; install it again",
                        null);
            }
        }
    }

    /** The offset at which the last of the file's segments and tables ends (ELF-64 object file format, sections 3 and 5). */
    private static long end(FileChannel channel, ByteBuffer header) throws IOException {
        long segments = header.getLong(32);
        int count = Short.toUnsignedInt(header.getShort(56));
        ByteBuffer table = read(channel, segments, count * PROGRAM_HEADER);
        if (table.limit() < count * PROGRAM_HEADER) {
            return segments + (long) count * PROGRAM_HEADER;
        }
        // the table of sections, which linkers put last
        long end = header.getLong(40)
                + Short.toUnsignedLong(header.getShort(58)) * Short.toUnsignedInt(header.getShort(60));
        for (int at = 0; at < table.limit(); at += PROGRAM_HEADER) {
            end = Math.max(end, table.getLong(at + 8) + table.getLong(at + 32));
        }
        return end;
    }

    /** Reads so many bytes, or fewer where the file ends. */
    private static ByteBuffer read(FileChannel channel, long position, int length) throws IOException {
        ByteBuffer buffer = ByteBuffer.allocate(length).order(ByteOrder.LITTLE_ENDIAN);
        while (position >= 0 && buffer.hasRemaining() && channel.read(buffer, position + buffer.position()) > 0) {
            // a read may give fewer bytes than were asked for
        }
        return buffer.flip();
    }
}
