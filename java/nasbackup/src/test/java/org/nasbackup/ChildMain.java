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

import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.logging.Logger;

/** What tests do in a JVM of its own. */
final class ChildMain {
    private ChildMain() {}

    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "open-twice":
                openTwice();
                break;
            case "two-loaders":
                twoLoaders(arguments[1], arguments[2]);
                break;
            case "keep-thread":
                NasBackup.open();
                TestHooks.keepNativeThread();
                System.out.println("main ends");
                break;
            case "shut-down":
                shutDown();
                break;
            case "log-to-a-failing-logger":
                logToAFailingLogger();
                break;
            case "provoke":
                NasBackup.open();
                TestHooks.provokeCheckJni();
                break;
            default:
                throw new IllegalArgumentException(arguments[0]);
        }
    }

    private static void openTwice() {
        for (int i = 0; i < 2; i++) {
            try {
                System.out.println("version " + NasBackup.open().version());
            } catch (NasBackupException e) {
                System.out.println(e.getMessage());
            }
        }
        System.out.println("owner " + System.getProperty("org.nasbackup.library.owner"));
    }

    private static void logToAFailingLogger() {
        NasBackup.open();
        AtomicInteger records = new AtomicInteger();
        Logger logger = Logger.getLogger("nasbackup");
        logger.setUseParentHandlers(false);
        logger.addHandler(new Handler() {
            @Override
            public void publish(LogRecord record) {
                records.incrementAndGet();
                throw new IllegalStateException("the log file is gone");
            }

            @Override
            public void flush() {}

            @Override
            public void close() {}
        });
        TestHooks.logOnNativeThread("first");
        TestHooks.logOnNativeThread("second");
        try {
            TestHooks.logWithPendingException("third");
        } catch (ArithmeticException e) {
            System.out.println("pending " + e);
        }
        System.out.println("records " + records);
    }

    /** The second loader has a library of its own in its class path, and must not take it. */
    private static void twoLoaders(String classes, String resources) throws Exception {
        List<URLClassLoader> loaders = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            URL[] path = {
                Path.of(classes).toUri().toURL(), Path.of(resources).toUri().toURL()
            };
            loaders.add(new URLClassLoader("loader " + i, path, ClassLoader.getPlatformClassLoader()));
        }
        for (int turn = 0; turn < 2; turn++) {
            for (URLClassLoader loader : loaders) {
                try {
                    loader.loadClass("org.nasbackup.NasBackup")
                            .getMethod("open")
                            .invoke(null);
                    System.out.println(loader.getName() + " opened");
                } catch (ReflectiveOperationException e) {
                    System.out.println(loader.getName() + ": " + e.getCause().getMessage());
                }
            }
        }
        try (var maps = Files.lines(Path.of("/proc/self/maps"))) {
            System.out.println("mapped "
                    + maps.filter(line -> line.contains("libnasbackup.so") && line.contains("r-xp"))
                            .count());
        }
    }

    private static void shutDown() throws InterruptedException {
        NasBackup.open();
        CountDownLatch running = new CountDownLatch(1);
        Thread thread = new Thread(() -> NasBackup.call(() -> {
            try {
                return TestHooks.runJob("endless", Integer.MAX_VALUE, status -> running.countDown());
            } catch (NasBackupException e) {
                System.out.println("job ended: " + e.code());
                return null;
            }
        }));
        thread.setDaemon(true);
        thread.start();
        running.await();
        Runtime.getRuntime().exit(0);
    }
}
