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

package org.nasbackup.provider;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.nasbackup.provider.ChainRepair.Others.DELETED;
import static org.nasbackup.provider.ChainRepair.Others.MERGED;
import static org.nasbackup.provider.ChainRepair.Others.REFUSED;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Plans carried out on a model of files: at every moment of every repair all restore points read as before. */
class RepairModelTest {
    private static final long VM = 1;

    /** A chain: each point's parent, -1 for the full. */
    private static final class Scene {
        final Crash.Meter meter = new Crash.Meter();
        final ModelNas nas = new ModelNas(meter);
        final ModelCatalogue catalogue = new ModelCatalogue(meter);
        final Map<String, Map<String, Map<Integer, String>>> contents = new TreeMap<>();
        final int[] parents;

        Scene(int... parents) {
            this.parents = parents;
            for (int i = 0; i < parents.length; i++) {
                String parent = parents[i] < 0 ? null : path(parents[i]);
                // A disk is added with the third point.
                nas.take(path(i), parent, i < 2 ? List.of("v0", "v1") : List.of("v0", "v1", "v2"), 37 * i + 11);
                catalogue.add(Point.builder(i, uuid(i), path(i))
                        .created(i)
                        .chain("chain")
                        .parent(parents[i] < 0 ? null : uuid(parents[i]))
                        .position(depth(parents, i))
                        .build());
                contents.put(path(i), nas.read(path(i)));
            }
            meter.never();
        }

        static String path(int i) {
            return "vm/" + i;
        }

        static String uuid(int i) {
            return "uuid-" + i;
        }

        static int depth(int[] parents, int i) {
            return parents[i] < 0 ? 0 : depth(parents, parents[i]) + 1;
        }

        void delete(int target, ChainRepair.Others others) {
            Point point = catalogue.row(target);
            if (point != null) {
                List<Step> steps = ChainRepair.computeChainRepair(catalogue.points(VM), point, others);
                new RepairExecutor(catalogue, nas).execute(steps);
            }
        }

        void crashDuring(int target, ChainRepair.Others others, int effect) {
            meter.crashBefore(effect);
            assertThatThrownBy(() -> delete(target, others)).isInstanceOf(Crash.class);
            meter.never();
        }

        /** Every point that has files reads as before, and stands where the catalogue says or the repair puts it. */
        void isWhole(Going going) {
            for (Point point : catalogue.points(VM)) {
                if (!nas.has(point.path())) {
                    // Only what is being deleted may be gone before its record is.
                    assertThat(going.has((int) point.id())).as(point.path()).isTrue();
                    continue;
                }
                if (nas.isWhole(point.path()) || !going.has((int) point.id())) {
                    assertThat(nas.read(point.path())).isEqualTo(contents.get(point.path()));
                }
                List<String> may = new ArrayList<>();
                may.add(pathOf(point.parent()));
                point.goals().forEach(goal -> may.add(pathOf(goal)));
                assertThat(may).containsAll(nas.backings(point.path()));
            }
        }

        private static String pathOf(String uuid) {
            return uuid == null || uuid.equals(Point.ALONE) ? null : "vm/" + uuid.substring("uuid-".length());
        }

        /** What must be left when all that was to go is gone. */
        void isRepaired(Going... goings) {
            List<Integer> left = new ArrayList<>();
            int[] now = parents.clone();
            for (int i = 0; i < parents.length; i++) {
                int point = i;
                if (Arrays.stream(goings).noneMatch(going -> going.has(point))) {
                    left.add(i);
                }
                while (now[i] >= 0 && gone(now[i], goings)) {
                    now[i] = parents[now[i]];
                }
            }
            assertThat(catalogue.points(VM))
                    .extracting(point -> (int) point.id())
                    .hasSameElementsAs(left);
            assertThat(nas.paths()).hasSize(left.size());
            left.forEach(point -> isRepaired(point, now));
            for (int i : left) {
                for (int j : left) {
                    assertThat(catalogue
                                    .row(i)
                                    .chainId()
                                    .equals(catalogue.row(j).chainId()))
                            .isEqualTo(root(now, i) == root(now, j));
                }
            }
        }

        private static boolean gone(int point, Going... goings) {
            return Arrays.stream(goings).anyMatch(going -> going.has(point));
        }

        private void isRepaired(int point, int[] now) {
            Point row = catalogue.row(point);
            assertThat(row.parent()).isEqualTo(now[point] < 0 ? null : uuid(now[point]));
            assertThat(row.position()).isEqualTo(depth(now, point));
            assertThat(row.goals()).isEmpty();
            assertThat(nas.read(path(point))).isEqualTo(contents.get(path(point)));
            assertThat(nas.backings(path(point))).allMatch(backing -> backing.equals(pathOf(row.parent())));
            if (parents[point] != now[point]) {
                assertThat(catalogue.size(point)).isEqualTo(nas.size(path(point)));
            }
        }

        private static int root(int[] parents, int i) {
            return parents[i] < 0 ? i : root(parents, parents[i]);
        }
    }

    /** A deletion, and which points go by it. */
    private static final class Going {
        final int target;
        final ChainRepair.Others others;

        Going(int target, ChainRepair.Others others) {
            this.target = target;
            this.others = others;
        }

        boolean has(int point) {
            return point == target || target == 0 && others == ChainRepair.Others.DELETED;
        }

        boolean refusedFor(int points) {
            return target == 0 && others == ChainRepair.Others.REFUSED && points > 1;
        }

        void of(Scene scene) {
            scene.delete(target, others);
        }
    }

    /** All trees of up to seven points in which each point stands on an older one: the lines, and what restores make. */
    static Stream<int[]> trees() {
        return IntStream.rangeClosed(1, 7).boxed().flatMap(RepairModelTest::trees);
    }

    private static Stream<int[]> trees(int size) {
        Stream<int[]> trees = Stream.of(new int[] {-1});
        for (int i = 1; i < size; i++) {
            int last = i;
            trees = trees.flatMap(tree -> IntStream.range(0, last).mapToObj(parent -> {
                int[] longer = Arrays.copyOf(tree, last + 1);
                longer[last] = parent;
                return longer;
            }));
        }
        return trees;
    }

    private static List<Going> goings(int points) {
        return IntStream.range(0, points)
                .boxed()
                .flatMap(target -> Stream.of(ChainRepair.Others.values()).map(others -> new Going(target, others)))
                .filter(going -> !going.refusedFor(points))
                .collect(Collectors.toList());
    }

    @ParameterizedTest
    @MethodSource("trees")
    void every_target_of_every_chain_and_a_crash_at_every_effect(int[] parents) {
        if (parents.length > 1) {
            refuses(parents);
        }
        for (Going going : goings(parents.length)) {
            Scene once = new Scene(parents);
            going.of(once);
            once.isRepaired(going);
            if (going.target > 0 && going.others != MERGED) {
                // an incremental one goes by the same steps, whatever is to become of those that stand on a full one
                continue;
            }
            for (int effect = 0; effect < once.meter.effects(); effect++) {
                Scene scene = new Scene(parents);
                scene.crashDuring(going.target, going.others, effect);
                scene.isWhole(going);
                going.of(scene);
                scene.isRepaired(going);
            }
        }
    }

    static Stream<int[]> smallTrees() {
        return IntStream.rangeClosed(2, 5).boxed().flatMap(RepairModelTest::trees);
    }

    /**
     * Nobody has to finish a rebase that was interrupted before another backup can go, and be interrupted in turn. Only what a
     * point that is gone stands on waits until that one's record is gone, too.
     */
    @ParameterizedTest
    @MethodSource("smallTrees")
    void after_a_crash_any_other_can_go_first(int[] parents) {
        for (int target = 0; target < parents.length; target++) {
            Going first = new Going(target, MERGED);
            Scene once = new Scene(parents);
            first.of(once);
            for (int effect = 0; effect < once.meter.effects(); effect++) {
                for (int other = 0; other < parents.length; other++) {
                    Going second = new Going(other, MERGED);
                    int then = 0;
                    while (isInterrupted(parents, first, effect, second, then)) {
                        then++;
                    }
                }
            }
        }
    }

    private static boolean isInterrupted(int[] parents, Going first, int effect, Going second, int then) {
        Scene scene = new Scene(parents);
        scene.crashDuring(first.target, first.others, effect);
        if (!scene.nas.has(Scene.path(first.target))) {
            first.of(scene);
        }
        boolean interrupted = false;
        scene.meter.crashBefore(then);
        try {
            second.of(scene);
        } catch (Crash e) {
            interrupted = true;
        }
        scene.meter.never();
        if (!scene.nas.has(Scene.path(second.target))) {
            second.of(scene);
        }
        first.of(scene);
        second.of(scene);
        scene.isRepaired(first, second);
        return interrupted;
    }

    private static void refuses(int[] parents) {
        Scene scene = new Scene(parents);
        assertThatThrownBy(() -> scene.delete(0, REFUSED))
                .isInstanceOf(RepairRefused.class)
                .hasMessageContaining((parents.length - 1) + " incremental backup")
                .hasMessageContaining("all " + parents.length);
        assertThat(scene.meter.effects()).isZero();
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
    void long_chains_are_deleted_in_any_order_with_any_crashes(int seed) {
        Random random = new Random(seed);
        int[] parents = new int[8 + random.nextInt(50)];
        parents[0] = -1;
        for (int i = 1; i < parents.length; i++) {
            parents[i] = random.nextInt(4) == 0 ? random.nextInt(i) : i - 1;
        }
        Scene scene = new Scene(parents);
        while (!scene.catalogue.points(VM).isEmpty()) {
            List<Point> rows = scene.catalogue.points(VM);
            int target = (int) rows.get(random.nextInt(rows.size())).id();
            Going going = new Going(target, random.nextInt(40) == 0 ? DELETED : MERGED);
            scene.meter.crashBefore(random.nextInt(6));
            try {
                going.of(scene);
            } catch (Crash e) {
                if (going.others == MERGED) {
                    scene.isWhole(going);
                }
            }
            scene.meter.never();
            going.of(scene);
            assertThat(scene.catalogue.row(target)).as("seed %s", seed).isNull();
            scene.isWhole(going);
            for (Point row : scene.catalogue.points(VM)) {
                Point parent = row.parent() == null
                        ? null
                        : scene.catalogue.row(Long.parseLong(row.parent().substring("uuid-".length())));
                assertThat(row.position()).isEqualTo(parent == null ? 0 : parent.position() + 1);
            }
        }
        assertThat(scene.nas.paths()).isEmpty();
    }
}
