// What pointers do to a picture: hovering points, dragging moves, the wheel and two fingers zoom, a click picks.

/** Pixels of the screen that a hand may shake by. */
const SHAKE = 4

/** @typedef {{x: number, y: number}} At in pixels of the screen */

/** @param {import('./canvas.js').LayerView} view */
export function gestures(view) {
  const { canvas, on } = view
  /** Fingers and buttons that are down. @type {Map<number, At>} */
  const down = new Map()
  let begun = { x: 0, y: 0 }, moved = false

  const shares = (/** @type {At} */ at) => {
    const box = canvas.getBoundingClientRect()
    return /** @type {[number, number]} */ ([(at.x - box.left) / box.width, (at.y - box.top) / box.height])
  }
  const onImage = (/** @type {At} */ at) => {
    const [x, y] = shares(at)
    return /** @type {[number, number]} */ ([view.left + x / view.scale, view.top + y / view.scale])
  }
  const point = (/** @type {At} */ at) => {
    const [x, y] = onImage(at)
    if (x >= 0 && x < 1 && y >= 0 && y < 1) on.point?.(x, y)
  }
  const middle = () => {
    const all = [...down.values()], sum = all.reduce((a, b) => ({ x: a.x + b.x, y: a.y + b.y }))
    return { x: sum.x / all.length, y: sum.y / all.length }
  }
  const spread = () => {
    const [a, b] = [...down.values()]
    return Math.hypot(a.x - b.x, a.y - b.y)
  }
  const panned = (/** @type {At} */ from, /** @type {At} */ to) => {
    const [x, y] = shares(from), [x1, y1] = shares(to)
    view.pan(x - x1, y - y1)
  }
  const over = (/** @type {PointerEvent} */ event) => {
    down.delete(event.pointerId)
    if (!down.size) canvas.classList.remove('moving')
  }

  canvas.addEventListener('pointerdown', (event) => {
    if (event.button) return
    canvas.setPointerCapture(event.pointerId)
    down.set(event.pointerId, { x: event.clientX, y: event.clientY })
    if (down.size === 1) { begun = { x: event.clientX, y: event.clientY }; moved = false } else moved = true
  })
  canvas.addEventListener('pointermove', (event) => {
    const now = { x: event.clientX, y: event.clientY }, last = down.get(event.pointerId)
    if (!last) { if (!event.buttons) point(now); return }
    if (down.size === 1) {
      if (!moved && Math.hypot(now.x - begun.x, now.y - begun.y) < SHAKE) return
      moved = true
      canvas.classList.add('moving')
      down.set(event.pointerId, now)
      panned(last, now)
    } else if (down.size === 2) {
      const from = middle(), wide = spread()
      down.set(event.pointerId, now)
      const to = middle()
      panned(from, to)
      view.zoom(spread() / Math.max(1, wide), ...shares(to))
    }
  })
  canvas.addEventListener('pointerup', (event) => {
    const known = down.has(event.pointerId)
    over(event)
    if (!known || moved || down.size) return
    // a finger hovers nowhere: what it taps is read out
    if (event.pointerType === 'touch') point(begun)
    on.pick?.(...onImage(begun))
  })
  canvas.addEventListener('pointercancel', over)
  canvas.addEventListener('pointerleave', (event) => { if (event.pointerType !== 'touch') on.leave?.() })
  // one finger scrolls the page where there is nothing to move, two are for the picture
  canvas.addEventListener('touchmove', (event) => { if (event.touches.length > 1 || view.scale > 1) event.preventDefault() }, { passive: false })
  canvas.addEventListener('wheel', (event) => {
    // the page scrolls on where there is nothing to zoom out of
    if (event.deltaY > 0 && view.scale === 1) return
    event.preventDefault()
    view.zoom(1.2 ** (-event.deltaY / 100), ...shares({ x: event.clientX, y: event.clientY }))
  }, { passive: false })
}
