// What the page knows: who may do what, the broker as it was seen last, and the clocks.

export const state = {
  session: null, // what the dashboard lets us do, and the secret that goes with what changes something
  sections: {}, // as the broker was seen last
  sparks: { queues: {}, totals: {} },
  heard: 0, // when the last update came (performance.now)
  skew: 0, // seconds that the broker's clock is ahead of this machine's
};
