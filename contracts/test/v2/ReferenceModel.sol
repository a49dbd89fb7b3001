// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title ReferenceModel
/// @notice What token and JecpSplitterV2 should do, said as plainly as it can be: one mapping per
/// fact, no packing, no bitmap, no caching, no signatures (the caller says whether one is good).
contract ReferenceModel {
    struct Capability {
        address provider;
        uint256 providerBps;
        uint256 hubBps;
        bool payable_;
    }

    struct Item {
        address payer;
        uint256 value;
        bytes32 nonce;
        uint64 number;
        bytes32 capabilityId;
        /// The capability that the nonce is bound to, zero for an unbound one.
        bytes32 boundTo;
        bool wellSigned;
        bool inTime;
    }

    address internal hub;
    address internal reserve;
    address internal splitter;
    uint256 internal cap;

    // The token.
    mapping(address => uint256) public balance;
    mapping(address => bool) public blacklisted;
    mapping(address => mapping(bytes32 => bool)) public used;
    bool public paused;

    // The Splitter.
    mapping(bytes32 => Capability) public capability;
    mapping(uint64 => bool) public booked;
    mapping(address => mapping(bytes32 => bool)) public recorded;
    mapping(address => uint256) public escrow;
    uint256 public totalOwed;

    constructor(address hub_, address reserve_, address splitter_, uint256 cap_) {
        hub = hub_;
        reserve = reserve_;
        splitter = splitter_;
        cap = cap_;
    }

    // ------------------------------------------------------------ the world

    function mint(address to, uint256 value) external {
        balance[to] += value;
    }

    function setBlacklisted(address who, bool is_) external {
        blacklisted[who] = is_;
    }

    function setPaused(bool is_) external {
        paused = is_;
    }

    function setCapability(bytes32 id, address provider, uint256 p, uint256 h, bool payable_)
        external
    {
        capability[id] = Capability(provider, p, h, payable_);
    }

    function cancel(address payer, bytes32 nonce) external {
        used[payer][nonce] = true;
    }

    function canPull(Item memory item) public view returns (bool) {
        return !paused && !blacklisted[item.payer] && !blacklisted[splitter] && item.inTime
            && !used[item.payer][item.nonce] && item.wellSigned && balance[item.payer] >= item.value;
    }

    function pull(Item memory item) public {
        used[item.payer][item.nonce] = true;
        balance[item.payer] -= item.value;
        balance[splitter] += item.value;
    }

    // ------------------------------------------------------------ the Splitter

    function maySettle(Item memory item) public view returns (bool) {
        return mayBook(item) && canPull(item);
    }

    function settle(Item[] memory items) external returns (bool[] memory done) {
        done = new bool[](items.length);
        for (uint256 i = 0; i < items.length; ++i) {
            if (!maySettle(items[i])) continue;
            done[i] = true;
            pull(items[i]);
            book(items[i]);
        }
        payAll(items, done);
    }

    /// @return done Which items were taken.
    /// @return reverts Whether the whole call reverts, since nobody could be paid.
    function record(Item[] memory items) external returns (bool[] memory done, bool reverts) {
        done = new bool[](items.length);
        uint256 claimed = 0;
        bool any;
        for (uint256 i = 0; i < items.length; ++i) {
            if (!mayBook(items[i]) || !mayClaim(items[i], claimed)) continue;
            done[i] = true;
            any = true;
            claimed += items[i].value;
            recorded[items[i].payer][items[i].nonce] = true;
            book(items[i]);
        }
        reverts = !payAll(items, done) && any;
    }

    function refund(Item[] memory items) external returns (bool[] memory done) {
        done = new bool[](items.length);
        uint256 claimed = 0;
        for (uint256 i = 0; i < items.length; ++i) {
            if (items[i].value == 0 || booked[items[i].number]) continue;
            if (!mayClaim(items[i], claimed)) continue;
            done[i] = true;
            claimed += items[i].value;
            recorded[items[i].payer][items[i].nonce] = true;
            book(items[i]);
        }
        for (uint256 i = 0; i < items.length; ++i) {
            if (done[i]) pay(items[i].payer, items[i].value);
        }
    }

    function withdraw(address account) external returns (bool reverts) {
        uint256 amount = escrow[account];
        if (amount == 0 || !canPay(account)) return true;
        escrow[account] = 0;
        totalOwed -= amount;
        move(account, amount);
    }

    function mayBook(Item memory item) internal view returns (bool) {
        return capability[item.capabilityId].payable_ && item.value != 0 && item.value <= cap
            && !booked[item.number] && (item.boundTo == 0 || item.boundTo == item.capabilityId);
    }

    function mayClaim(Item memory item, uint256 claimed) internal view returns (bool) {
        return !recorded[item.payer][item.nonce] && used[item.payer][item.nonce] && item.wellSigned
            && item.value + claimed + totalOwed <= balance[splitter];
    }

    function book(Item memory item) internal {
        booked[item.number] = true;
    }

    /// @dev Sums first, since a recipient is paid once, and is escrowed once.
    function payAll(Item[] memory items, bool[] memory done) internal returns (bool any) {
        uint256 hubSum = 0;
        uint256 reserveSum = 0;
        for (uint256 i = 0; i < items.length; ++i) {
            if (!done[i]) continue;
            Capability memory c = capability[items[i].capabilityId];
            uint256 p = items[i].value * c.providerBps / 10_000;
            uint256 h = items[i].value * c.hubBps / 10_000;
            hubSum += h;
            reserveSum += items[i].value - p - h;
            if (pay(c.provider, p)) any = true;
        }
        if (pay(hub, hubSum)) any = true;
        if (pay(reserve, reserveSum)) any = true;
    }

    function pay(address to, uint256 amount) internal returns (bool) {
        if (amount == 0) return false;
        if (canPay(to)) {
            move(to, amount);
            return true;
        }
        escrow[to] += amount;
        totalOwed += amount;
        return false;
    }

    function canPay(address to) internal view returns (bool) {
        return !paused && !blacklisted[to] && !blacklisted[splitter];
    }

    function move(address to, uint256 amount) internal {
        balance[splitter] -= amount;
        balance[to] += amount;
    }
}
