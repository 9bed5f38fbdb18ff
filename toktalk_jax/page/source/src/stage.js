// The canvas: one head per track, side by side under one camera.
import * as THREE from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
import { createHeatMaterial, createMaterials, studio } from "./look.js";
import { createPace } from "./pace.js";
import { paintFace } from "./paint.js";
import { normalsOf } from "./skin.js";
import { createSmoothing, lift, spread } from "./smooth.js";

const FIELD_OF_VIEW = 22;

export function createStage(canvas, take, onTurn) {
  const renderer = createRenderer(canvas);
  const scene = createScene(renderer);
  const heads = createHeads(take);
  heads.forEach((head) => scene.add(head.mesh));
  const frame = frameOf(take);
  const orbit = createOrbit(canvas, frame);
  const pace = createPace(renderer);
  let grid = null;

  // The number of columns that the heads now stand in.
  function fit() {
    pace.apply();
    renderer.setSize(canvas.clientWidth, canvas.clientHeight, false);
    grid = gridOf(heads.length, canvas.clientWidth, canvas.clientHeight, frame);
    orbit.fit(grid.width / grid.height);
    return grid.columns;
  }

  // Whether the view still turns by itself; `steady` as in pace.js.
  function draw(steady) {
    pace.frame(steady);
    const turning = orbit.controls.update();
    const { columns, width, height } = grid;
    renderer.setScissorTest(true);
    heads.forEach((head, i) => {
      heads.forEach((other) => (other.mesh.visible = other === head));
      const x = (i % columns) * width;
      const y = canvas.clientHeight - (Math.floor(i / columns) + 1) * height; // from below
      renderer.setViewport(x, y, width, height);
      renderer.setScissor(x, y, width, height);
      renderer.clear();
      renderer.render(scene, orbit.camera);
    });
    return turning;
  }

  fit();
  orbit.home();
  orbit.controls.addEventListener("change", onTurn);
  return { heads, fit, home: orbit.home, draw };
}

// The grid of cells in which `count` heads stand largest.
function gridOf(count, width, height, frame) {
  const grids = Array.from({ length: count }, (_, k) => {
    const rows = Math.ceil(count / (k + 1));
    return { columns: k + 1, width: width / (k + 1), height: height / rows };
  });
  const scale = (grid) => Math.min(grid.width / frame.width, grid.height / frame.height);
  return grids.reduce((best, grid) => (scale(grid) > scale(best) ? grid : best));
}

const KEY_TURN = THREE.MathUtils.degToRad(8);
// What a key does to the camera: turns around, turns down, times the distance.
const KEYS = {
  ArrowLeft: [-1, 0, 1],
  ArrowRight: [1, 0, 1],
  ArrowUp: [0, -1, 1],
  ArrowDown: [0, 1, 1],
  "+": [0, 0, 0.9],
  "-": [0, 0, 1 / 0.9],
};

// A camera that turns around the head and always shows all of `frame` from afar.
function createOrbit(canvas, frame) {
  const camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.05, 10);
  const controls = new OrbitControls(camera, canvas);
  Object.assign(controls, { enablePan: false, enableDamping: true, dampingFactor: 0.12 });
  Object.assign(controls, { rotateSpeed: 0.8, minPolarAngle: 0.9, maxPolarAngle: 1.95 });
  const slope = Math.tan(THREE.MathUtils.degToRad(FIELD_OF_VIEW / 2));
  let distance = 1;

  function fit(aspect) {
    camera.aspect = aspect;
    camera.updateProjectionMatrix();
    const needed = Math.max(frame.height, frame.width / aspect) / 2 / slope + frame.depth;
    const offset = camera.position
      .clone()
      .sub(controls.target)
      .multiplyScalar(needed / distance);
    camera.position.copy(controls.target).add(offset);
    distance = needed;
    Object.assign(controls, { minDistance: 0.35 * needed, maxDistance: 2.2 * needed });
  }

  function home() {
    controls.enableDamping = false; // ends the turn that still runs out
    controls.update();
    controls.target.copy(frame.centre);
    const ahead = new THREE.Vector3(0.1, 0.02, 1).normalize();
    camera.position.copy(frame.centre).add(ahead.multiplyScalar(distance));
    controls.update();
    controls.enableDamping = true;
  }

  function turn([around, down, nearer]) {
    const from = camera.position.clone().sub(controls.target);
    const place = new THREE.Spherical().setFromVector3(from);
    place.theta += around * KEY_TURN;
    place.phi += down * KEY_TURN;
    place.radius *= nearer;
    camera.position.setFromSpherical(place.makeSafe()).add(controls.target);
    controls.update(); // keeps it within the limits
  }

  // Only while the head itself has the focus: elsewhere the arrows have other work.
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    turn(KEYS[event.key]);
  });
  canvas.addEventListener("mousedown", (event) => event.preventDefault()); // no focus by it

  return { camera, controls, fit, home };
}

function createRenderer(canvas) {
  const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
  renderer.toneMapping = THREE.ACESFilmicToneMapping;
  renderer.toneMappingExposure = 0.92;
  renderer.autoClear = false;
  return renderer;
}

function createScene(renderer) {
  const scene = new THREE.Scene();
  const makeEnvironment = new THREE.PMREMGenerator(renderer);
  scene.environment = makeEnvironment.fromScene(studio(), 0.02).texture;
  scene.environmentIntensity = 0.5;
  makeEnvironment.dispose();
  addLights(scene);
  return scene;
}

function addLights(scene) {
  const key = new THREE.DirectionalLight(0xffeddb, 2.3);
  key.position.set(0.9, 1.1, 1.5);
  const fill = new THREE.DirectionalLight(0xb9cdf5, 0.55);
  fill.position.set(-1.6, 0.1, 0.9);
  const rim = new THREE.DirectionalLight(0xdce8ff, 1.0);
  rim.position.set(-0.9, 0.9, -1.4);
  scene.add(key, fill, rim, new THREE.HemisphereLight(0xdfe6f2, 0x5a3d31, 0.5));
}

function createHeads(take) {
  const { arrays } = take;
  const rest = arrays.template.values;
  const painted = arrays.mark_places ? paintFace(arrays.mark_places.values) : null;
  const { index, groups } = sortedFaces(
    arrays.faces.values,
    arrays.face_groups.values,
    take.groups.length,
  );
  const lined = groups.some(({ group }) => take.groups[group] === "teeth");
  const materials = createMaterials(painted, (mouthPlace(arrays) || [0])[0], lined);
  const veils = take.groups.map((name) => veil(materials.skin.side, name === "skin"));
  const smoothing = createSmoothing(index, rest.length / 3);
  const shared = {
    rest: new THREE.BufferAttribute(spread(smoothing, rest, 3), 3),
    shade: new THREE.BufferAttribute(spread(smoothing, shadeOf(take, index), 4), 4),
    eye: new THREE.BufferAttribute(spread(smoothing, eyeDirections(take), 3), 3),
  };
  const fineIndex = new THREE.BufferAttribute(smoothing.index, 1);
  const heated = take.compare && take.compare.heat;
  const unseen = new THREE.MeshBasicMaterial({ visible: false });
  const heatMaterial = heated && createHeatMaterial(heated.ramp, materials.skin.side);
  return take.tracks.map(() => {
    const geometry = new THREE.BufferGeometry();
    const [position, normal, heat] = [3, 3, 1].map((width) =>
      new THREE.BufferAttribute(new Float32Array(width * smoothing.count), width).setUsage(
        THREE.DynamicDrawUsage,
      ),
    );
    geometry.setIndex(fineIndex);
    Object.entries({ ...shared, position, normal, heat }).forEach(([name, value]) =>
      geometry.setAttribute(name, value),
    );
    groups.forEach(({ start, count, group }) => geometry.addGroup(4 * start, 4 * count, group));
    const own = take.groups.map((name) => materials[name] || materials.skin);
    const hot = take.groups.map((name) => (name === "lashes" ? unseen : heatMaterial));
    const mesh = new THREE.Mesh(geometry, own);
    const under = new THREE.Mesh(geometry, veils);
    mesh.frustumCulled = under.frustumCulled = false;
    mesh.add(under);
    return {
      mesh,
      // The head's own vertices: what the page poses, and what its lip gap is read from.
      positions: position.array.subarray(0, rest.length),
      // To call after `positions` changed.
      refresh() {
        normalsOf(position.array, index, normal.array);
        lift(smoothing, position.array, normal.array);
        position.needsUpdate = true;
        normal.needsUpdate = true;
      },
      // Colours of `values` by vertex, of which `most` is the highest shown; null: skin.
      wear(values, most) {
        mesh.material = values ? hot : own;
        if (!values) return;
        const shares = values.map((value) => value / most);
        heat.array.set(spread(smoothing, shares, 1));
        heat.needsUpdate = true;
      },
    };
  });
}

// Puts the skin into the depth buffer first: where the neck fades out, only its nearest
// layer is then blended. Pushed back a little, for the two programs round differently.
function veil(side, visible) {
  return new THREE.MeshBasicMaterial({
    colorWrite: false,
    side,
    visible,
    polygonOffset: true,
    polygonOffsetFactor: 2,
    polygonOffsetUnits: 8,
  });
}

function sortedFaces(faces, faceGroups, count) {
  const index = new Uint32Array(faces.length);
  const groups = [];
  let at = 0;
  for (let group = 0; group < count; group++) {
    const start = at;
    faceGroups.forEach((own, f) => {
      if (own !== group) return;
      index.set(faces.subarray(3 * f, 3 * f + 3), at);
      at += 3;
    });
    if (at > start) groups.push({ start, count: at - start, group });
  }
  return { index, groups };
}

const step = (low, high, value) => {
  const t = Math.min(Math.max((value - low) / (high - low), 0), 1);
  return t * t * (3 - 2 * t);
};

function shadeOf(take, index) {
  const { arrays } = take;
  const rest = arrays.template.values;
  const count = rest.length / 3;
  const normals = normalsOf(rest, index, new Float32Array(rest.length));
  let [low, high] = [Infinity, -Infinity];
  for (let v = 0; v < count; v++) {
    low = Math.min(low, rest[3 * v + 1]);
    high = Math.max(high, rest[3 * v + 1]);
  }
  const mouth = mouthPlace(arrays);
  const shade = new Float32Array(4 * count);
  for (let v = 0; v < count; v++) {
    const [x, y, z] = rest.subarray(3 * v, 3 * v + 3);
    const closed = arrays.open_rest.values[v] / 255;
    shade[4 * v] = arrays.open.values[v] / 255;
    shade[4 * v + 2] = 1;
    shade[4 * v + 3] = step(low + 0.04 * (high - low), low + 0.2 * (high - low), y);
    if (!mouth) continue;
    const far = Math.hypot((x - mouth[0]) / 0.04, (y - mouth[1]) / 0.022);
    const inside = far < 1 && z < mouth[2] - 0.002 && z > mouth[2] - 0.09;
    shade[4 * v + 1] = inside ? 1 - step(0.0, 0.1, closed) : 0;
    shade[4 * v + 2] =
      step(-0.2, 0.15, normals[3 * v + 2]) * step(mouth[2] - 0.08, mouth[2] - 0.06, z);
  }
  return shade;
}

function mouthPlace(arrays) {
  if (!arrays.mark_places) return null;
  const marks = arrays.mark_places.values;
  return [0, 1, 2].map((c) => (marks[3 * 45 + c] + marks[3 * 49 + c]) / 2);
}

// From the centre of the nearer eyeball, in its radii.
function eyeDirections(take) {
  const rest = take.arrays.template.values;
  const out = new Float32Array(rest.length);
  const balls = take.arrays.eye_places.values;
  for (let v = 0; v < rest.length; v += 3) {
    let best = Infinity;
    for (let b = 0; b < balls.length; b += 4) {
      const d = [0, 1, 2].map((c) => (rest[v + c] - balls[b + c]) / balls[b + 3]);
      const distance = Math.hypot(...d);
      if (distance >= best) continue;
      best = distance;
      out.set(d, v);
    }
  }
  return out;
}

// What the camera frames: the head down to the chin and a little neck.
function frameOf(take) {
  const rest = take.arrays.template.values;
  const box = new THREE.Box3().setFromArray(rest);
  const size = box.getSize(new THREE.Vector3());
  const centre = box.getCenter(new THREE.Vector3());
  centre.y -= 0.015 * size.y;
  return { centre, width: 1.12 * size.x, height: 1.06 * size.y, depth: 0.3 * size.z };
}
