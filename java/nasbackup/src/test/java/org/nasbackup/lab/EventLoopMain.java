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

import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.libvirt.Connect;
import org.libvirt.Library;
import org.libvirt.LibvirtException;
import org.libvirt.event.DomainEventType;
import org.nasbackup.Mode;
import org.nasbackup.NasBackup;

/** Another user of libvirt's event loop in this process, as CloudStack's agent is: {@code first} or {@code second}. */
final class EventLoopMain {
    private static final BlockingQueue<DomainEventType> EVENTS = new LinkedBlockingQueue<>();

    private EventLoopMain() {}

    public static void main(String[] arguments) throws Exception {
        NasBackup nasBackup = Lab.open("warn");
        boolean first = arguments[0].equals("first");
        if (first) {
            listen();
        }
        try (Story story = new Story(nasBackup, Guest.ordinary(), new NasFolder())) {
            backUp(story, Mode.FULL);
            if (!first) {
                listen();
            }
            for (int i = 0; i < 2; i++) {
                restart(story.guest());
                story.guest().write(0, 0x51 + i, 20, 1);
                backUp(story, Mode.INCREMENTAL);
            }
            restart(story.guest());
        }
    }

    private static void listen() throws LibvirtException {
        Library.initEventLoop();
        Thread loop = new Thread(EventLoopMain::loop, "event loop");
        loop.setDaemon(true);
        loop.start();
        new Connect("qemu:///system").addLifecycleListener((domain, event) -> {
            EVENTS.add(event.getType());
            return 0;
        });
    }

    private static void loop() {
        try {
            Library.runEventLoop();
        } catch (LibvirtException | InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    private static void backUp(Story story, Mode mode) {
        Point point = story.take(mode);
        System.out.println("> " + point.result().kind() + " " + point.differences(story.nas()));
    }

    private static void restart(Guest guest) throws InterruptedException {
        EVENTS.clear();
        guest.restart();
        await(DomainEventType.STOPPED);
        await(DomainEventType.STARTED);
        System.out.println("> heard");
    }

    private static void await(DomainEventType wanted) throws InterruptedException {
        DomainEventType event;
        do {
            event = EVENTS.poll(180, TimeUnit.SECONDS);
            if (event == null) {
                throw new IllegalStateException("no event " + wanted);
            }
        } while (event != wanted);
    }
}
