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

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
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

        void delete(int target, boolean forced) {
            Point point = catalogue.row(target);
            if (point != null) {
                List<Step> steps = ChainRepair.computeChainRepair(catalogue.points(VM), point, forced);
                new RepairExecutor(catalogue, nas, removed -> true).execute(steps);
            }
        }

        /** Every point that has files reads as before, and stands where the catalogue says or the repair puts it. */
        void isWhole(int target, boolean full) {
            for (Point point : catalogue.points(VM)) {
                if (!nas.has(point.path())) {
                    // Only what is being deleted may be gone before its record is.
                    assertThat(full || point.id() == target).as(point.path()).isTrue();
                    continue;
                }
                assertThat(nas.read(point.path())).isEqualTo(contents.get(point.path()));
                List<String> may = new ArrayList<>();
                may.add(pathOf(point.parent()));
                if (uuid(target).equals(point.parent()) && catalogue.row(target) != null) {
                    may.add(pathOf(catalogue.row(target).parent()));
                }
                assertThat(may).containsAll(nas.backings(point.path()));
            }
        }

        private static String pathOf(String uuid) {
            return uuid == null ? null : "vm/" + uuid.substring("uuid-".length());
        }

        /** What must be left when the target is gone. */
        void isRepaired(int target, boolean full) {
            List<Integer> left = new ArrayList<>();
            int[] now = parents.clone();
            for (int i = 0; i < parents.length; i++) {
                if (!full && i != target) {
                    left.add(i);
                    now[i] = parents[i] == target ? parents[target] : parents[i];
                }
            }
            assertThat(catalogue.points(VM))
                    .extracting(point -> (int) point.id())
                    .hasSameElementsAs(left);
            assertThat(nas.paths()).hasSize(left.size());
            assertThat(catalogue.counted()).isEqualTo(parents.length - left.size());
            for (int i : left) {
                Point row = catalogue.row(i);
                assertThat(row.parent()).isEqualTo(now[i] < 0 ? null : uuid(now[i]));
                assertThat(row.position()).isEqualTo(depth(now, i));
                assertThat(nas.read(path(i))).isEqualTo(contents.get(path(i)));
                assertThat(nas.backings(path(i))).allMatch(backing -> backing.equals(pathOf(row.parent())));
                if (parents[i] == target) {
                    assertThat(catalogue.size(i)).isEqualTo(nas.size(path(i)));
                }
            }
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

    @ParameterizedTest
    @MethodSource("trees")
    void every_target_of_every_chain_and_a_crash_at_every_effect(int[] parents) {
        for (int target = 0; target < parents.length; target++) {
            for (boolean forced : new boolean[] {false, true}) {
                boolean full = target == 0;
                if (full && parents.length > 1 && !forced) {
                    refuses(parents);
                    continue;
                }
                Scene once = new Scene(parents);
                once.delete(target, forced);
                once.isRepaired(target, full);
                for (int effect = 0; effect < once.meter.effects(); effect++) {
                    Scene scene = new Scene(parents);
                    scene.meter.crashBefore(effect);
                    int crashed = target;
                    assertThatThrownBy(() -> scene.delete(crashed, forced)).isInstanceOf(Crash.class);
                    scene.isWhole(target, full);
                    scene.meter.never();
                    scene.delete(target, forced);
                    scene.isRepaired(target, full);
                }
            }
        }
    }

    private static void refuses(int[] parents) {
        Scene scene = new Scene(parents);
        assertThatThrownBy(() -> scene.delete(0, false))
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
            boolean full = target == 0;
            boolean forced = random.nextInt(10) == 0;
            if (full && rows.size() > 1 && !forced) {
                continue;
            }
            scene.meter.crashBefore(random.nextInt(6));
            try {
                scene.delete(target, forced);
            } catch (Crash e) {
                scene.isWhole(target, full);
            }
            scene.meter.never();
            scene.delete(target, forced);
            assertThat(scene.catalogue.row(target)).as("seed %s", seed).isNull();
            scene.isWhole(target, false);
            for (Point row : scene.catalogue.points(VM)) {
                Point parent = row.parent() == null
                        ? null
                        : scene.catalogue.row(Long.parseLong(row.parent().substring("uuid-".length())));
                assertThat(row.position()).isEqualTo(parent == null ? 0 : parent.position() + 1);
            }
        }
        assertThat(scene.catalogue.counted()).isEqualTo(parents.length);
        assertThat(scene.nas.paths()).isEmpty();
    }
}
