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

package org.apache.cloudstack.backup;

import com.cloud.agent.api.Answer;
import com.cloud.agent.api.Command;
import com.cloud.exception.OperationTimedoutException;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A host's agent with a NAS that takes its time. Its pool is as CloudStack makes it: with a queue without a bound it never
 * has more than its five core threads, whatever its maximum says. In which order commands are asked for is the server's
 * affair alone: it sends one at a time of those that say so, and all others at once.
 */
final class AgentPool implements Agents, AutoCloseable {
    private static final int PATIENCE_SECONDS = 180;

    /** A command that every other work on a host stands on. */
    private static final class HealthCheck extends Command {
        @Override
        public boolean executeInSequence() {
            return false;
        }
    }

    private final ThreadPoolExecutor threads =
            new ThreadPoolExecutor(5, 25, 60, TimeUnit.SECONDS, new LinkedBlockingQueue<>());
    private final Semaphore sequence = new Semaphore(1);
    private final Semaphore nas = new Semaphore(0);
    private final AtomicInteger ours = new AtomicInteger();
    /** How many commands of ours had a thread at one instant. */
    final AtomicInteger most = new AtomicInteger();
    /** Those that got a thread, in turn. */
    final BlockingQueue<Command> begun = new LinkedBlockingQueue<>();

    @Override
    public Answer send(Long hostId, Command command) throws OperationTimedoutException {
        if (command.executeInSequence()) {
            sequence.acquireUninterruptibly();
        }
        try {
            return answer(threads.submit(() -> execute(command)));
        } catch (InterruptedException | ExecutionException | TimeoutException e) {
            throw new OperationTimedoutException(null, hostId, 1, 1, false);
        } finally {
            if (command.executeInSequence()) {
                sequence.release();
            }
        }
    }

    private static Answer answer(Future<Answer> answer)
            throws InterruptedException, ExecutionException, TimeoutException {
        return answer.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
    }

    private Answer execute(Command command) {
        if (command instanceof HealthCheck) {
            return new Answer(command, true, null);
        }
        most.accumulateAndGet(ours.incrementAndGet(), Math::max);
        begun.add(command);
        try {
            nas.acquireUninterruptibly();
            BackupAnswer answer = new BackupAnswer(command, true, null);
            answer.setSize(1L);
            return answer;
        } finally {
            ours.decrementAndGet();
        }
    }

    /** Is it answered, while the NAS is still at everything that it was given? */
    boolean isHealthy() throws Exception {
        return send(21L, new HealthCheck()).getResult();
    }

    /** The NAS is done with one of those that are under way. */
    void finishOne() {
        nas.release();
    }

    Command next() throws InterruptedException {
        return begun.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
    }

    @Override
    public void close() {
        nas.release(Integer.MAX_VALUE / 2);
        threads.shutdown();
    }
}
