/**
 * The server's clock, as far as its answers' Date header shows it. That header has whole seconds, so each answer narrows the
 * difference to this machine's clock down to a range. Within the range this machine's clock is believed.
 */
export class ServerClock {
  private low = -Infinity;
  private high = Infinity;

  /** Learns from an answer to a request that was sent and answered at these times of this machine. */
  learn(date: string | null, sent: number, received: number): void {
    const at = Date.parse(date ?? '');
    if (Number.isNaN(at)) return;
    const low = at - received;
    const high = at + 1000 - sent;
    if (low > this.high || high < this.low) { // a clock was set
      this.low = low;
      this.high = high;
      return;
    }
    this.low = Math.max(this.low, low);
    this.high = Math.min(this.high, high);
  }

  /** How far the server's clock is ahead of this machine's, in milliseconds. */
  get offset(): number { return Math.min(Math.max(0, this.low), this.high); }

  now(local = Date.now()): number { return local + this.offset; }
}
